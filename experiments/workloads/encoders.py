"""What the stages of encoders share: a BERT with random weights, and the Hugging Face Trainer as the peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from jaxllm import hf
from jaxllm.data.builtin import ner as builtin
from jaxllm.models import encoder
from jaxllm.models.heads import describe_model
from workloads.work import Asked, Peer, Work, of_size

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 128, "depth": 4, "heads": 4, "mlp_width": 512},
    "large": {"width": 384, "depth": 6, "heads": 12, "mlp_width": 1536},
}
"""Of BERT, where --model names none; the large one is MiniLM's, with a smaller vocabulary."""

VOCABULARY = 4096


def model_folder(
    asked: Asked, folder: Path, texts: Callable[[], Iterable[str]], config: Callable[[encoder.Config], Any]
) -> Path:
    """The folder that --model names, or a new one: BERT under the head of `config`, and a tokenizer of these texts."""
    if asked.model:
        return Path(asked.model).absolute()
    tokenizer = builtin.wordpiece(texts(), VOCABULARY, 512)
    made = config(encoder.Config(vocab_size=len(tokenizer), max_positions=512, **of_size(asked, SIZES)))
    hf.export(folder, jax.jit(describe_model(made).init)(jax.random.key(0)), made, tokenizer)
    return folder


def beside_trainer(
    asked: Asked, rows: str, ours: tuple[str, ...], theirs: tuple[str, ...], other: str, *flags: str
) -> Work:
    """The work of a script of ours beside the Trainer, as it comes and with `flags`, which `other` describes."""
    named = asked.model or "BERT, {depth} layers of width {width}".format(**of_size(asked, SIZES))
    needs = ("torch", "accelerate")
    peers = {"Trainer": Peer("hf", needs, theirs), f"Trainer, {other}": Peer("hf", needs, (*theirs, *flags))}
    return Work(f"{named}, {rows}", ours, peers)
