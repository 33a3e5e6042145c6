"""Supervised fine-tuning: a decoder learns to answer, from prompts with their answers.

    python experiments/sft.py
    python experiments/sft.py --model HuggingFaceTB/SmolLM2-135M --dataset HuggingFaceTB/smoltalk:everyday-conversations
    python experiments/sft.py --model runs/pretrain-1a2b3c4d --dataset instructions.jsonl --chat-template chatml
    python experiments/sft.py --model path/to/llama --dataset alpaca.json --loss dft --max-length 1024 --mesh fsdp=8
    python experiments/sft.py --model path/to/llama --dataset chats.jsonl --lora-rank 16

Papers: Wei et al. 2021, Finetuned Language Models Are Zero-Shot Learners; Ouyang et al. 2022, InstructGPT, section 3.5.
Expected: see experiments/README.md, which has the numbers and the time they took.

The loss is on the assistant's turns, or completions, and on the token that ends them; on all of a plain text.
data/chat/rows.py has the shapes of rows, data/chat/encode.py how answers are told from prompts. Several dialogues share
a row of the batch and see nothing of each other. With no flags a small Llama that has learnt nothing yet is asked about
Python's standard library.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
from typing import Any

from rich.console import Console
from rich.markup import escape

from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.loader import EvalBatches, lengths, loader
from jaxllm.evals import answers
from jaxllm.recipes import adapters
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.chat_start import start_chat
from jaxllm.recipes.dialogues import DialogueFlags, examples_of, lines_of, questions_of, read_dialogues, texts_of
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import SAMPLING, flag
from jaxllm.recipes.losses import token_loss
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.rows import Split, key_of, summary_of
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.recipes.start import Start
from jaxllm.train.fit import fit
from jaxllm.types import Numbers

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {"epochs": 3.0, "learning_rate": 2e-5, "weight_decay": 0.0, "beta2": 0.999},
    "adapters": {"epochs": 3.0, "learning_rate": 2e-4, "weight_decay": 0.0, "beta2": 0.999},
    "scratch": {"epochs": 3.0, "learning_rate": 2e-3, "weight_decay": 0.1, "beta2": 0.98},
}
"""What flags that are not given are, by where the weights come from, and for adapters on them."""


@dataclasses.dataclass(frozen=True)
class Config(DialogueFlags, LoraFlags):
    """Supervised fine-tuning."""

    RECIPES = RECIPES

    epochs: float | None = None  # type: ignore[assignment]
    batch_size: int = 16
    """Dialogues per optimizer step, over all devices; the number of rows follows from packing."""
    learning_rate: float | None = None  # type: ignore[assignment]
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float | None = None  # type: ignore[assignment]
    beta2: float | None = None  # type: ignore[assignment]
    samples: int = flag(32, SAMPLING, operational=True)
    """Number of dev prompts to answer at each evaluation, for dev/token_f1 and dev/ended; 0 for none."""
    sample_tokens: int = flag(48, SAMPLING, operational=True)
    """Length of each of these answers in tokens, at most."""
    shown: int = flag(3, SAMPLING, operational=True)
    """Number of these answers to print at each evaluation."""


def settle(config: Config) -> Config:
    """Fills in what was not given from the recipe for these weights."""
    return fill_in(config, RECIPES)


def evaluation(config: Config, begin: Start, split: Split[Dialogue], batches: EvalBatches, out: Console) -> Any:
    """Scores a split, and prints a few answers."""
    questions = questions_of(split, begin, config.samples, config.sample_tokens)
    ends = begin.special_tokens.ends

    def evaluate(model: Any) -> Numbers:
        numbers = answers.evaluate(model, batches)
        if questions and config.sample_tokens:
            said = answers.answer(model, questions, begin.tokenizer, ends, config.sample_tokens)
            numbers |= answers.score(said, questions)
            for question, (text, ended) in list(zip(questions, said, strict=True))[: config.shown]:
                out.print(f"[dim]{escape(question.text)}[/dim]\n  {escape(text)}{'' if ended else ' [dim]...[/dim]'}")
        return numbers

    asked = ("ended", "token_f1") if questions and config.sample_tokens else ()
    evaluate.numbers = ("loss", "perplexity", "accuracy", *asked)  # what --best may name
    return evaluate


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    config = settle(config)
    loss = token_loss(config)
    session = open_session("sft", config)
    splits = read_dialogues(config)
    base = session.dated(start_chat(config, texts_of(splits["train"]), key_of(texts_of(splits["train"]))))
    begin = adapters.apply(base, config)
    examples = {name: examples_of(split, config, begin) for name, split in splits.items()}
    plan = session.plan(lengths(examples["train"]))
    arguments = fit_arguments(config, plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [*lines_of(splits), ("rows", plan.describe())])

    evals = {}
    for name in ("dev", "test"):
        if name in splits:
            batches = EvalBatches(examples[name], session.eval_plan(lengths(examples[name])))
            evals[name] = evaluation(config, begin, splits[name], batches, session.console)
    fitted = fit(
        begin.model, loss=loss, data=loader(examples["train"], plan), optimizer=optim_config(config),
        run=session.describing(begin), mesh=session.mesh, evals={n: x for n, x in evals.items() if n == "dev"},
        **arguments,
    )  # fmt: skip
    finals = {f"test/{name}": x for name, x in evals["test"](fitted.model).items()} if "test" in evals else {}
    session.finish(begin, fitted, arguments["steps"], finals, **summary_of(splits))


if __name__ == "__main__":
    run_script(main, Config)
