"""ELECTRA's discriminator (Clark et al. 2020): BERT whose embeddings may be narrower than the residual stream."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.hf import bert
from jaxllm.hf.config import Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, linear
from jaxllm.models.heads import TaggerConfig


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.skip("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")
    config, width = bert.read(f), f.get("embedding_size", int)
    narrow = width if width != config.encoder.width else 0
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, embedding_width=narrow))


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    return bert.write(config) | {"embedding_size": config.encoder.embedding_width or config.encoder.width}


TABLE = Table(
    (*bert.rules("electra."), *linear("electra.embeddings_project", "embeddings.project")),
    prefix="electra.",
    ignore=(
        r"electra\.embeddings\.position_ids",
        r"(discriminator_predictions|generator_predictions|generator_lm_head|sequence_summary|qa_outputs)\..*",
        r"classifier\.(dense|out_proj)\..*",  # of a classifier of whole texts
    ),
    renames=bert.OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {"electra": Family("ElectraForTokenClassification", read, write, lambda _: TABLE)}
