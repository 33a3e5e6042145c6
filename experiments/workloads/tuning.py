"""SFT, DPO and reward models: `sft.py`, `preference.py` and `reward.py` beside TRL's trainers, on the same rows.

Both sides tune one random Llama in float32; the reference's log-probabilities are computed before training.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm import hf
from jaxllm.data import sources, tokenizers
from jaxllm.data.builtin import questions
from jaxllm.data.chat import examples
from jaxllm.data.chat import rows as instructions
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.chat.templates import give_pad, give_template
from jaxllm.data.files import Part
from jaxllm.data.loader import lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import AnswerRows, Layout
from jaxllm.data.preference.pairs import Comparison, comparisons, encode
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from jaxllm.recipes import dialogues, pairs
from jaxllm.recipes.rows import Split
from jaxllm.types import InputError
from workloads.work import Asked, Peer, Work, first_of, of_size, peer, script

SIZES = {
    "small": Shape(vocab_size=4096, width=256, depth=4, heads=4, mlp_width=688, max_positions=512),
    "large": Shape(vocab_size=4096, width=512, depth=8, heads=8, mlp_width=1376, max_positions=512),
}
"""Of the model on both sides."""
SCRIPTS = {"sft": "sft.py", "dpo": "preference.py", "reward": "reward.py"}
STEPS = {"small": 80, "large": 24}
BATCH_SIZE = 16
MAX_LENGTH = 256
LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What both sides start from: folders of the model and of ours.jsonl and theirs.jsonl, and tokens of a row."""

    model: Path
    data: Path
    tokens_per_row: float


def prepare(stage: str, asked: Asked, folder: Path, shape: Shape | None = None) -> Work:
    """`--dataset` names a file of instructions with answers for sft, of rows with chosen and rejected for the others;
    `--model` a folder of a causal language model with its tokenizer."""
    steps, untimed = asked.schedule(STEPS.get(asked.size, 0))
    on = write(stage, asked, folder, shape or of_size(asked, SIZES))
    described = f"{asked.model or 'a random Llama'}, {asked.batch_size or BATCH_SIZE} rows of {on.tokens_per_row:.0f}"
    theirs = peer("trl_tuning.py", asked, steps, untimed, *their_flags(stage, asked, on), "--steps", steps)
    ours = script(SCRIPTS[stage], asked, steps, untimed, *our_flags(stage, asked, on))
    return Work(
        f"{described} tokens on average", ours, {"TRL": Peer("trl", ("torch", "trl"), theirs)}, on.tokens_per_row
    )


sft, dpo, reward = (functools.partial(prepare, stage) for stage in SCRIPTS)


def write(stage: str, asked: Asked, folder: Path, shape: Shape) -> Prepared:
    """A model with its tokenizer, and the rows as plain text: TRL's in the order of our steps without packing."""
    batch_size, max_length = asked.batch_size or BATCH_SIZE, asked.max_length or MAX_LENGTH
    if stage == "sft":
        rows = rows_of(asked.dataset, questions.sft)
        asked_rows = plain_dialogues(instructions.dialogues(rows, report=Report())[0])
        texts = [{"prompt": one.prompt, "completion": one.completion} for one in asked_rows]
        spoken = dialogues.texts_of(Split(asked_rows, []))
    else:
        rows = rows_of(asked.dataset, questions.preference)
        found = plain_comparisons(comparisons(rows)[0])
        texts = [dict(zip(("prompt", "chosen", "rejected"), (one.prompt, *one.answers), strict=True)) for one in found]
        spoken = pairs.texts_of(Split(found, []))
    model = Path(asked.model).absolute() if asked.model else folder / "model"
    if asked.model:
        tokenizer = hf.load_tokenizer(str(model))
    else:
        tokenizer = tokenizers.bpe(spoken, shape.vocab_size - 1)
        give_template(tokenizer, "plain")
        give_pad(tokenizer)
        assert len(tokenizer) <= shape.vocab_size
        params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
        hf.export(model, params, shape, tokenizer, tokens={"pad_token_id": tokenizer.pad_token_id})

    # Every step has as many rows, and none is there that no step takes: both sides would score it by the reference.
    texts = first_of(texts[: asked.schedule(STEPS.get(asked.size, 0))[0] * batch_size], batch_size, "rows")
    options: Any = {"where": str, "report": Report()}
    if stage == "sft":
        sizes = lengths(examples.examples(asked_rows[: len(texts)], tokenizer, max_length, **options))
    else:
        layout = Layout(closed=stage == "reward")
        sizes = AnswerRows(encode(found[: len(texts)], tokenizer, max_length, **options), layout).lengths
    assert len(sizes) == len(texts), "a row was left out"
    plan = make_plan(sizes, batch_size=batch_size, multiple=jax.device_count(), pack=False, seed=0)
    order = [i for step in range(plan.steps) for row in plan.step(step) for i in row]
    for name, numbers in (("ours", range(len(texts))), ("theirs", order)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(texts[i]) + "\n" for i in numbers))
    return Prepared(model, folder, float(np.mean(sizes)))


def rows_of(dataset: str, embedded: Callable[[], Mapping[str, Any]]) -> Rows:
    """The rows to train on of a data set, or of what comes with the package. Raises InputError."""
    splits = sources.load(dataset) if dataset else {"train": Rows([Part("builtin", embedded()["train"])])}
    if "train" not in splits:
        raise InputError(f"--dataset {dataset}: no train split; name a file")
    return splits["train"]


def plain_dialogues(found: list[Dialogue]) -> list[Dialogue]:
    """As a prompt, a line of its own, and its completion."""
    return [
        Dialogue(prompt=said(one.messages[:-1]) + "\n", completion=said(one.messages[-1:])) if one.messages else one
        for one in found
    ]


def plain_comparisons(found: list[Comparison]) -> list[Comparison]:
    """As a prompt, a line of its own, and its answers."""
    return [
        dataclasses.replace(one, prompt=said(one.prompt) + "\n", answers=tuple(map(said, one.answers)))
        for one in found
    ]  # fmt: skip


def said(part: Any) -> str:
    """A text, or messages as lines."""
    return part if isinstance(part, str) else "\n".join(message["content"] for message in part)


def our_flags(stage: str, asked: Asked, on: Prepared) -> list[str]:
    """Of our script, beside those of every stage."""
    own: Mapping[str, list[Any]] = {
        "sft": ["--weight-decay", 0, "--samples", 0], "dpo": ["--loss", "sigmoid", "--samples", 0],
        "reward": ["--weight-decay", 0],
    }  # fmt: skip
    flags = [
        "--model", on.model, "--dataset", on.data / "ours.jsonl", "--holdout", 0,
        "--max-length", asked.max_length or MAX_LENGTH, "--batch-size", asked.batch_size or BATCH_SIZE,
        "--learning-rate", LEARNING_RATE, "--schedule", "constant", "--warmup", 0, *own[stage],
    ]  # fmt: skip
    return [str(flag) for flag in flags]


def their_flags(stage: str, asked: Asked, on: Prepared) -> list[str]:
    """Of peers/trl_tuning.py, beside those of every peer."""
    flags = [
        "--stage", stage, "--model", on.model, "--data", on.data / "theirs.jsonl",
        "--batch-size", asked.batch_size or BATCH_SIZE, "--learning-rate", LEARNING_RATE,
        "--max-length", asked.max_length or MAX_LENGTH,
    ]  # fmt: skip
    return [str(flag) for flag in flags]
