"""Opening decoders: all families by model_type."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.hf import gemma, gpt2, llama, mixture
from jaxllm.hf.family import Family
from jaxllm.hf.io import Opened, _describe, _fit
from jaxllm.models.decoder import SHARDING, Config, Decoder

FAMILIES: dict[str, Family[Config]] = {**gpt2.FAMILIES, **llama.FAMILIES, **gemma.FAMILIES, **mixture.FAMILIES}
"""By model_type."""


def open_decoder(source: str, **overrides: Any) -> Opened[Config]:
    """A causal language model from a folder, a run or the hub.

    overrides: fields of the configuration that do not change its parameters, such as dtype, remat and dropout rates.
    Raises InputError, one line that lists all that does not fit.
    """
    folder, raw, family, fields = _describe(source, FAMILIES)
    config = dataclasses.replace(family.read(fields), **overrides)
    notes = fields.finish()
    spec, found, dtypes = _fit(folder, family.table(config), lambda rngs: Decoder(config, rngs), SHARDING, {})
    if found.ignored:
        notes.append(f"not read: {', '.join(found.ignored)}")
    return Opened(spec, config, raw["model_type"], raw, folder, dtypes, [*notes, *found.notes])
