"""Encoders to train from scratch, for the scripts that take a preset of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxllm import hf
from jaxllm.data.builtin.ner import wordpiece
from jaxllm.models import encoder
from jaxllm.recipes.help import MODEL, flag

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "depth": 4, "heads": 4, "mlp_width": 384, "max_positions": 256},
    "small": {"width": 384, "depth": 6, "heads": 6, "mlp_width": 1152, "max_positions": 512},
}
"""Encoders to train from scratch, in ModernBERT's shape, with a tokenizer trained on the spot."""

MODERN: dict[str, Any] = {
    "rope_base": 10_000.0, "local_rope_base": 10_000.0, "pre_norm": True, "gated": True, "token_types": 0,
    "attention_bias": False, "mlp_bias": False, "norm_bias": False, "norm_eps": 1e-5,
    "embedding_dropout": 0.1, "mlp_dropout": 0.1,
    "attention_dropout": 0.0, "attention_output_dropout": 0.0, "mlp_output_dropout": 0.0,
}  # fmt: skip
"""Pre-norm and rotary positions learn in a fraction of the steps that BERT's own shape needs from scratch."""


@dataclasses.dataclass(frozen=True)
class EncoderFlags:
    """Flags of the scripts that train encoders, before those of their data: a recipe fills in what is None."""

    epochs: float | None = None
    batch_size: int | None = None
    """Sentences or texts per optimizer step, over all devices; the number of rows follows from packing."""
    learning_rate: float | None = None
    schedule: str | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    beta2: float | None = None
    vocab_size: int = flag(2048, MODEL)
    """Vocabulary of the tokenizer that is trained for a preset, in sub-words."""


def from_scratch(config: Any, texts: Iterable[str]) -> tuple[encoder.Config, Any]:
    """The encoder of the preset that `--model` names, and `--tokenizer`, or one that is trained on the texts."""
    preset: dict[str, Any] = PRESETS[config.model]
    if config.tokenizer:
        tokenizer = hf.load_tokenizer(config.tokenizer)
    else:
        tokenizer = wordpiece(texts, config.vocab_size, preset["max_positions"])
    computing = {"dtype": config.dtype, "remat": config.remat}
    return encoder.Config(vocab_size=len(tokenizer), **preset, **MODERN, **computing), tokenizer
