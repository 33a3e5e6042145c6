"""Pretraining: a decoder learns to predict the next token of text.

    python experiments/pretrain.py
    python experiments/pretrain.py --model gpt2-124m --tokenizer gpt2 --dataset HuggingFaceFW/fineweb-edu:sample-10BT \
        --max-length 1024 --batch-size 512 --dtype bfloat16 --mesh fsdp=8
    python experiments/pretrain.py --model tiny --tokenizer char --dataset shakespeare.txt --concatenate
    python experiments/pretrain.py --model path/to/llama --dataset books.jsonl:0.7 code.parquet:0.3

Papers: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; Touvron et al. 2023, LLaMA.
Expected: see experiments/README.md, which has the numbers and the time they took.

With no flags a small Llama learns the source and documentation of Python's standard library, with a byte-level BPE
tokenizer trained on them. Text is tokenised once, into a file below ~/.cache/jaxllm that later runs map into memory, so
a corpus may be larger than memory is; `data/text/documents.py` says which files are read piece by piece. Shards on
other machines (`--dataset 'gs://bucket/train-*.jsonl.zst'`) are downloaded one by one; an interrupted pass goes on.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from jaxllm.data.report import check_argument
from jaxllm.data.text.documents import Documents
from jaxllm.data.text.rows import Concatenated, Packed, Rows, TextBatches, text_loader
from jaxllm.data.text.token_cache import Corpus, open_corpus
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals import loss as loss_eval
from jaxllm.evals.generate import Sampling
from jaxllm.evals.text import continue_texts, encode
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import DATA, OPTIMISATION, SAMPLING, flag
from jaxllm.recipes.losses import token_loss
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.recipes.start import DecoderFlags, Start, start_decoder
from jaxllm.recipes.texts import lines_of, read_texts, summary_of
from jaxllm.run.best import check_best
from jaxllm.run.folder import operational
from jaxllm.train.fit import fit
from jaxllm.types import InputError, Numbers

DEMO_STEPS = 400
"""Of the run with no flags: what two CPU cores do in about two minutes."""


@dataclasses.dataclass(frozen=True)
class Config(DecoderFlags):
    """Pretraining of a causal language model."""

    dataset: tuple[str, ...] = ("builtin",)  # type: ignore[assignment]
    """Files, folders and quoted patterns, here or at https://, gs://, s3:// or hf://, or hub ids, each with a weight if
    wanted, as in a.txt:0.7 b.jsonl:0.3; `builtin` is the source and documentation of Python's standard library."""
    holdout: float = flag(0.05, DATA)
    """Share of a data set without a dev split to evaluate on; 0 for none."""
    concatenate: bool = flag(False, DATA)
    """Cut rows from the documents laid end to end, instead of packing whole documents that do not see each other."""
    epochs: float = 0.0
    """Length of the run in passes over the data; 0 for one, or of the embedded corpus for two minutes' worth."""
    batch_size: int = 8
    """Rows of --max-length tokens per optimizer step, over all devices."""
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    final_learning_rate: float = flag(0.1, OPTIMISATION)
    """Learning rate at the end of the schedule, as a share of that at its peak."""
    weight_decay: float = 0.1
    beta2: float = 0.95
    prompt: str = flag("", SAMPLING, operational=True)
    """Text that the sample at each evaluation continues; by default it begins a document."""
    sample_tokens: int = flag(80, SAMPLING, operational=True)
    """Length of that sample in tokens; 0 for none."""
    eval_every: str = operational("200")
    checkpoint_every: str = operational("500")


def settle(config: Config) -> Config:
    """Fills in the length of the run."""
    if config.steps or config.epochs:
        return config
    demo = config.dataset == ("builtin",)
    return dataclasses.replace(config, steps=DEMO_STEPS if demo else 0, epochs=1.0)


def sampler(config: Config, begin: Start, console: Console) -> Any:
    """An evaluation that prints what the model makes of the prompt."""
    check_argument(config.prompt, "--prompt")
    prompt = encode(config.prompt, begin.tokenizer)
    if len(prompt) >= begin.config.max_positions:
        raise InputError(f"--prompt has {len(prompt)} tokens, the context of the model is {begin.config.max_positions}")
    ends = begin.special_tokens.ends

    def sample(model: Any) -> Numbers:
        [new] = continue_texts(
            model.graphdef, model.params, begin.tokenizer, [prompt], Sampling(0.8, top_p=0.95),
            max_tokens=config.sample_tokens, ends=ends, seed=config.seed,
        )  # fmt: skip
        console.print(f"[dim]{escape(config.prompt + new)}[/dim]")
        return {"characters": float(len(new))}

    return sample


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    config = settle(config)
    if config.concatenate and not config.pack:
        raise InputError("--concatenate and --no-pack are two ways to fill a row: give one")
    loss = token_loss(config)
    session = open_session("pretrain", config)
    console, mesh = session.console, session.mesh
    data = read_texts(config)
    numbers = {"dev": loss_eval.NUMBERS} if data.dev else {}
    check_best(config.best, evals=numbers | ({"sample": ("characters",)} if config.sample_tokens else {}))
    texts = (text for documents in data.train for text in documents.texts())
    begin = start_decoder(config, texts, " ".join(documents.key for documents in data.train))

    def corpora(documents: Sequence[Documents]) -> list[Corpus]:
        return [open_corpus(d, begin.tokenizer, begin.config.vocab_size, say=console.print) for d in documents]

    def rows(found: Sequence[Corpus]) -> list[Rows]:
        if config.concatenate:
            return [Concatenated(corpus, config.max_length) for corpus in found]
        return [Packed(corpus, config.max_length, config.pack) for corpus in found]

    train, dev = corpora(data.train), corpora(data.dev)
    feed = text_loader(rows(train), data.weights, batch_size=config.batch_size, seed=config.seed)
    arguments = fit_arguments(config, feed.plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [*lines_of(train, dev), ("rows", feed.plan.describe())])

    batches = TextBatches(rows(dev), config.eval_batch_size, row_multiple(mesh))
    evals: dict[str, Any] = {"dev": functools.partial(loss_eval.evaluate, batches=batches)} if dev else {}
    if config.sample_tokens:
        evals["sample"] = sampler(config, begin, console)
    fitted = fit(
        begin.model, loss=loss, data=feed, optimizer=optim_config(config), run=session.describing(begin), mesh=mesh,
        evals=evals, **arguments,
    )  # fmt: skip
    session.finish(begin, fitted, arguments["steps"], **summary_of([*train, *dev]))


if __name__ == "__main__":
    run_script(main, Config)
