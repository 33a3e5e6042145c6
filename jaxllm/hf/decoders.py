"""All decoder families by model_type: a config.json as a Config, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxllm.hf import gemma, gpt2, llama, mixture
from jaxllm.hf.config import Fields
from jaxllm.hf.family import Family
from jaxllm.models.decoder_config import Config
from jaxllm.types import InputError

FAMILIES: dict[str, Family[Config]] = {**gpt2.FAMILIES, **llama.FAMILIES, **gemma.FAMILIES, **mixture.FAMILIES}

_OWN = ("backend", "dtype", "remat", "unroll", "embedding_dropout", "attention_dropout", "output_dropout")
"""What a file need not express: how to compute, and rates that matter in training alone."""


def read_config(raw: Mapping[str, Any], where: str = "config.json") -> tuple[Config, list[str]]:
    """What a config.json describes, and notes on it. Raises InputError for any field that is not honoured."""
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"{where}: model_type {kind!r} is no decoder known here; known: {', '.join(FAMILIES)}")
    fields = Fields(raw, where)
    config = FAMILIES[kind].read(fields)
    return config, fields.finish()


def write_config(config: Config) -> dict[str, Any]:
    """A config.json for a decoder: of the first family that can express it, found by reading back what it writes.

    Raises InputError where none can.
    """
    plain = dataclasses.replace(config, **{f.name: f.default for f in dataclasses.fields(Config) if f.name in _OWN})
    for kind, family in FAMILIES.items():
        try:
            values = {"architectures": [family.architecture], "model_type": kind, **family.write(config)}
            back, _ = read_config(values)
        except (InputError, ValueError):
            continue
        if _same(dataclasses.replace(back, **{name: getattr(plain, name) for name in _OWN}), plain):
            return values
    raise InputError(f"no family on disk can express {config}: use the fields of one of {', '.join(FAMILIES)}")


def _same(a: Config, b: Config) -> bool:
    """Whether two configurations are one model: defaults that stand for numbers are filled in first."""

    def full(c: Config) -> Config:
        return dataclasses.replace(
            c, kv_heads=c.K, head_width=c.H, attention_scale=c.attention_scale or c.H**-0.5,
            windows=tuple(c.windows_L().tolist()), local_rope_base=c.local_rope_base or c.rope_base,
        )  # fmt: skip

    return full(a) == full(b)
