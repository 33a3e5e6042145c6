"""The three stages in a row: pretraining, SFT, preference tuning; after each, what the same prompts yield.

    python experiments/three_stages.py
    python experiments/three_stages.py --model Qwen/Qwen2.5-0.5B --dataset instructions.jsonl
    python experiments/three_stages.py --model path/to/llama --dataset instructions.jsonl --preferences pairs.jsonl

Papers: Ouyang et al. 2022, InstructGPT, figure 2; Rafailov et al. 2023, Direct Preference Optimization.
Expected: see experiments/README.md, which has the numbers and the time they took.

Each stage is the script of its name, with a run folder of its own below --out, and starts from the one before. What is
asked is of dev, which no stage has seen: of Python's standard library, modules that are held out of all three. With
--model the first stage is that model as it is. A data set of its own has its answers preferred to those of its other
questions, unless --preferences names pairs.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

import preference
import pretrain
import sft
from jaxllm.data.builtin import preferences
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import AnswerBatches, AnswerRows
from jaxllm.distributed.mesh import make_mesh, row_multiple
from jaxllm.evals import answers
from jaxllm.evals.preference import likelier
from jaxllm.recipes.chat_start import ChatFlags, start_chat
from jaxllm.recipes.checks import COUNT, check_numbers
from jaxllm.recipes.dialogues import questions_of, read_dialogues
from jaxllm.recipes.flags import check
from jaxllm.recipes.losses import find_preference_loss
from jaxllm.recipes.pairs import PairFlags, groups_of, layout_of, read_pairs
from jaxllm.recipes.reference import load_start
from jaxllm.recipes.rows import Split
from jaxllm.recipes.script import run as run_script
from jaxllm.run.folder import check_folder
from jaxllm.types import InputError

HERE = {"sft": 1e-3, "preference": 1e-4}
"""Learning rates after pretraining here; a model from elsewhere is treated with more care, as the scripts do."""

NUMBERS = {"ended": "answers that end", "token_f1": "token F1", "prefers": "right answer likelier"}
"""What is measured after each stage, and its heading."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Pretraining, SFT and preference tuning, one after the other."""

    model: str = ""
    """Base model to start from: Hugging Face id or folder, or a run folder; by default one is pretrained."""
    dataset: str = "builtin"
    """Data set of SFT: hub id, folder or file, or `builtin`; prompts of its dev split are answered after each stage."""
    split: str = ""
    """Which of --dataset's own splits or files is train and which dev, as in train=NAME,dev=NAME; by default their
    names tell."""
    preferences: str = ""
    """Data set of preference tuning; by default pairs made from --dataset."""
    chat_template: str = ""
    """Chat template: chatml, plain, or a .jinja file; by default the tokenizer's own, and plain where it has none."""
    out: str = "runs/three_stages"
    """Folder of the three runs and of stages.json, with their numbers and answers."""
    pretrain_steps: int = pretrain.settle(pretrain.Config()).steps
    """Length of pretraining in optimizer steps."""
    sft_epochs: float = 2.0
    """Length of SFT in passes over its data."""
    preference_epochs: float = 0.5
    """Length of preference tuning in passes over its data."""
    sft_learning_rate: float | None = None
    """Peak learning rate of SFT; by default that of HERE, or with --model that of experiments/sft.py."""
    preference_learning_rate: float | None = None
    """Peak learning rate of preference tuning; by default that of HERE, or with --model that of
    experiments/preference.py."""
    loss: str = "sigmoid+sft"
    """Loss of preference tuning; sft beside DPO's keeps the likelihood of chosen answers from falling too."""
    batch_size: int = 16
    """Dialogues, or pairs, per optimizer step."""
    max_length: int = 256
    """Length of a dialogue, or of a prompt with its answer, in tokens, at most."""
    questions: int = 64
    """Number of prompts answered after each stage; twice as many pairs are compared."""
    answer_tokens: int = 48
    """Length of an answer in tokens, at most."""
    shown: int = 3
    """Number of answers to print after each stage."""
    seed: int = 0
    """Seed of all stages."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage's script with its configuration; None where the model is there already."""

    name: str
    folder: str
    main: Callable[[Any], None] | None = None
    config: Any = None


def stages(config: Config, preferences: str) -> list[Stage]:
    """The three, in order. Raises InputError for what is wrong with their flags."""
    check_numbers(config, COUNT, "questions", "answer_tokens", "pretrain_steps")
    root = Path(config.out)
    check_folder(root)
    first = config.model or str(root / "pretrain")

    def rate(stage: str) -> float | None:
        given: float | None = getattr(config, f"{stage}_learning_rate")
        return given if given is not None or config.model else HERE[stage]

    every: dict[str, Any] = {"seed": config.seed, "eval_every": "0", "checkpoint_every": "0", "log_every": 50}
    chat = {
        **every, "chat_template": config.chat_template, "batch_size": config.batch_size, "samples": 0,
        "max_length": config.max_length,
    }  # fmt: skip
    found = [
        Stage("pretrain", first) if config.model else
        Stage("pretrain", first, pretrain.main, pretrain.Config(
            out=first, steps=config.pretrain_steps, sample_tokens=0, **every,
        )),
        Stage("sft", str(root / "sft"), sft.main, sft.Config(
            model=first, dataset=config.dataset, split=config.split, out=str(root / "sft"), epochs=config.sft_epochs,
            learning_rate=rate("sft"), **chat,
        )),
        Stage("preference", str(root / "preference"), preference.main, preference.Config(
            model=str(root / "sft"), dataset=preferences, out=str(root / "preference"), loss=config.loss,
            epochs=config.preference_epochs, learning_rate=rate("preference"), **chat,
        )),
    ]  # fmt: skip
    if found[0].config is not None:
        check(found[0].config)
    check(sft.settle(found[1].config))
    check(preference.settle(found[2].config))
    find_preference_loss(found[2].config, found[2].config.reference)
    return found


def made_of(splits: dict[str, Split[Dialogue]], folder: Path) -> None:
    """Writes pairs made of dialogues as a data set. Raises InputError for a split that has none to make."""
    rows = {name: [*preferences.pairs(split.rows)] for name, split in splits.items()}
    if empty := [name for name, found in rows.items() if not found]:
        raise InputError(
            f"{empty[0]} has no two questions with answers of their own to make pairs of: name some by --preferences"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def ask(model: str, config: Config, dev: Split[Dialogue], preferences: str) -> dict[str, Any]:
    """NUMBERS of a model's folder, and its answers: (question, answer, whether it came to an end)."""
    flags = PairFlags(
        model=model, dataset=preferences, chat_template=config.chat_template, max_length=config.max_length
    )
    begin = start_chat(flags, [], "")
    runner = load_start(begin, make_mesh(), config.seed)
    found = questions_of(dev, begin, config.questions, config.answer_tokens)
    if not found:
        raise InputError(f"--dataset {config.dataset}: nothing in its dev split asks a question that fits the model")
    said = answers.answer(runner, found, begin.tokenizer, begin.special_tokens.ends, config.answer_tokens)

    pairs = {name: split for name, split in read_pairs(flags).items() if name == "dev"}
    groups = groups_of(pairs, flags, begin)["dev"]
    order = np.random.default_rng(0).permutation(len(groups))
    groups = [groups[i] for i in order[: 2 * config.questions]]
    rows = AnswerRows(groups, layout_of(flags, begin)[0])
    plan = make_plan(rows.lengths, batch_size=min(64, len(groups)), multiple=row_multiple(runner.mesh))
    numbers = {**answers.score(said, found), "prefers": likelier(runner, AnswerBatches(rows, plan))}
    return {**numbers, "answers": [(q.text, text, ended) for q, (text, ended) in zip(found, said, strict=True)]}


def main(config: Config) -> None:
    """Runs the stages, asks after each, and prints a table."""
    console = Console(soft_wrap=True, highlight=False)
    own = str(Path(config.out) / "preferences") if config.dataset != "builtin" else "builtin"
    preferences = config.preferences or own
    found = stages(config, preferences)
    splits = read_dialogues(sft.Config(dataset=config.dataset, split=config.split))
    if "dev" not in splits:
        raise InputError(f"--dataset {config.dataset}: no dev split, and too few rows to hold one out")
    if config.model:  # before anything is written
        start_chat(
            ChatFlags(model=config.model, chat_template=config.chat_template, max_length=config.max_length), [], ""
        )
    if not config.preferences and config.dataset != "builtin":
        made_of(splits, Path(preferences))
    if "dev" not in read_pairs(PairFlags(dataset=preferences)):
        raise InputError(f"--preferences {preferences}: no dev split, and too few rows to hold one out")

    told: dict[str, dict[str, Any]] = {}
    for stage in found:
        console.print(f"\n[bold]{stage.name}[/bold]")
        if stage.main is not None:
            stage.main(stage.config)
        told[stage.name] = ask(stage.folder, config, splits["dev"], preferences)
        for question, answer, ended in told[stage.name]["answers"][: config.shown]:
            shown = escape(" ".join(answer.split())) or "[dim](blanks)[/dim]"
            console.print(f"[dim]{escape(question)}[/dim]\n  {shown}{'' if ended else ' [dim]...[/dim]'}")
    console.print("\n" + f"{'after':<12}" + "".join(f"{heading:>24}" for heading in NUMBERS.values()))
    for name, one in told.items():
        console.print(f"{name:<12}{one['ended']:>24.0%}{one['token_f1']:>24.3f}{one['prefers']:>24.0%}")
    (Path(config.out) / "stages.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main, Config)
