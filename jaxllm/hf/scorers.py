"""Reward models on disk: the decoders' families with a `score` for a head, one number, as sequence classifiers."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.hf import decoders
from jaxllm.hf.family import Family
from jaxllm.hf.io import Opened, _describe, _fit
from jaxllm.hf.table import Table, linear
from jaxllm.models.decoder_config import Config
from jaxllm.models.heads import SCORER_SHARDING, Scorer, ScorerConfig


def _scorer(family: Family[Config]) -> Family[ScorerConfig]:
    def table(config: ScorerConfig) -> Table:
        base = family.table(config.trunk)
        rules = (*base.rules, *linear("score", "score"))
        # The head of the language model that it came from has no place here.
        return dataclasses.replace(base, rules=rules, ignore=(*base.ignore, r"lm_head\..*"), heads=("score",))

    name = family.architecture.replace("ForCausalLM", "").replace("LMHeadModel", "")
    return Family(
        f"{name}ForSequenceClassification",
        lambda fields: ScorerConfig(family.read(fields)),
        lambda config: family.write(config.decoder),
        table,
    )


FAMILIES: dict[str, Family[ScorerConfig]] = {kind: _scorer(family) for kind, family in decoders.FAMILIES.items()}
"""By model_type."""


def open_scorer(source: str, **overrides: Any) -> Opened[ScorerConfig]:
    """A reward model, or a causal language model to make one of, from a folder, a run or the hub.

    A head that the file lacks, or one of another number of labels, is initialised; a note says so. overrides: fields of
    the decoder's configuration that do not change its parameters. Raises InputError, one line that lists all that does
    not fit.
    """
    folder, raw, family, fields = _describe(source, FAMILIES)
    decoder = dataclasses.replace(family.read(fields).decoder, **overrides)
    config, notes = ScorerConfig(decoder), fields.finish()
    spec, found, dtypes = _fit(folder, family.table(config), lambda rngs: Scorer(config, rngs), SCORER_SHARDING, {})
    if found.ignored:
        notes.append(f"not read: {', '.join(found.ignored)}")
    return Opened(spec, config, raw["model_type"], raw, folder, dtypes, [*notes, *found.notes])
