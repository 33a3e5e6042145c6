"""Pretraining of GPT-2 on characters: `pretrain.py` beside PyTorch, eager and compiled."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jaxllm.data.builtin import stdlib
from jaxllm.models.decoder import Config as Shape
from jaxllm.recipes.architecture import find_architecture
from jaxllm.types import InputError
from workloads.work import HERE, Asked, Peer, Work, of_size, peer, script

CHARACTERS = 1_000_000
"""Of the embedded corpus, where no text is given."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and what it is fed."""

    model: str
    length: int
    batch_size: int
    steps: int


SIZES = {
    "small": Size(str(HERE / "models" / "gpt2-char.json"), 64, 12, 600),
    "large": Size(str(HERE / "models" / "gpt2-char-large.json"), 256, 8, 60),
}
"""4 layers of width 128 (nanoGPT's settings on a CPU), and 6 of width 384."""


def prepare(asked: Asked, folder: Path) -> Work:
    """GPT-2 on the characters of a text: `--dataset` names it, `--model` a preset or a JSON configuration."""
    size = of_size(asked, SIZES)
    length, batch_size = asked.max_length or size.length, asked.batch_size or size.batch_size
    steps, untimed = asked.schedule(size.steps)
    text = _text(asked.dataset, folder)
    shape = find_architecture(asked.model or size.model)
    if shape is None:
        raise InputError(f"--model {asked.model}: give a preset or a .json of a decoder to pretrain")
    characters = len(set(text.read_text(encoding="utf-8"))) + 2  # with the end of text and an unknown one
    shape = dataclasses.replace(
        shape, vocab_size=max(shape.vocab_size, characters), max_positions=max(shape.max_positions, length)
    )
    model = folder / "model.json"
    model.write_text(json.dumps({name: x for name, x in dataclasses.asdict(shape).items() if x is not None}))
    ours = script(
        "pretrain.py", asked, steps, untimed, "--model", model, "--tokenizer", "char", "--concatenate",
        "--dataset", text, "--max-length", length, "--batch-size", batch_size, "--learning-rate", 1e-3,
        "--beta2", 0.99, "--holdout", 0, "--sample-tokens", 0,
    )  # fmt: skip
    theirs = peer(
        "torch_gpt.py", asked, steps, untimed, "--data", text, "--depth", shape.depth, "--heads", shape.heads,
        "--width", shape.width, "--length", length, "--batch-size", batch_size, "--steps", steps,
        "--vocab-size", shape.vocab_size, "--no-evaluate",
    )  # fmt: skip
    peers = {
        "torch": Peer("torch", ("torch",), theirs),
        "torch compiled": Peer("torch", ("torch",), (*theirs, "--compile"), "" if _has_gpu() else "g++"),
    }
    described = f"{shape.depth} layers of width {shape.width}, {batch_size} rows of {length} characters"
    return Work(described, ours, peers if _is_gpt2(shape) else {})


def _text(dataset: str, folder: Path) -> Path:
    """The file to train on."""
    if dataset:
        if not Path(dataset).is_file():
            raise InputError(f"--dataset {dataset}: there is no such text file")
        return Path(dataset).absolute()
    text, path = "\n".join(stdlib.documents()["train"].values()), folder / "text.txt"
    path.write_text(text.encode("ascii", "ignore").decode()[:CHARACTERS], encoding="utf-8")
    return path


def _is_gpt2(shape: Shape) -> bool:
    """Whether the peer has this model."""
    same = shape.mlp_width == 4 * shape.width and shape.activation == "gelu_tanh" and shape.norm == "layer"
    return same and shape.tied and not shape.gated and not shape.rope_base


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))
