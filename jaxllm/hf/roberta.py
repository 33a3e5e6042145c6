"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions start after the padding id.

RoBERTa: Liu et al. 2019. XLM-RoBERTa: Conneau et al. 2019. CamemBERT: Martin et al. 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.hf import bert
from jaxllm.hf.config import Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table
from jaxllm.models.heads import TaggerConfig


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    config = bert.read(f)
    offset = f.get("pad_token_id", int) + 1
    rows = config.encoder.max_positions
    body = dataclasses.replace(config.encoder, position_offset=offset, max_positions=rows - offset)
    return dataclasses.replace(config, encoder=body)


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    c = config.encoder
    fields = bert.write(config) | {"max_position_embeddings": c.max_positions + c.position_offset}
    # No padding id means positions that begin at row 0, which RoBERTa does not have.
    return fields | ({"pad_token_id": c.position_offset - 1} if c.position_offset else {})


TABLE = Table(
    bert.rules("roberta."),
    prefix="roberta.",
    ignore=(
        r"roberta\.embeddings\.position_ids",
        r"roberta\.pooler\..*",
        r"lm_head\..*",
        r"qa_outputs\..*",
        r"classifier\.(dense|out_proj)\..*",  # of a classifier of whole texts
    ),
    renames=bert.OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {
    "roberta": Family("RobertaForTokenClassification", read, write, lambda _: TABLE),
    "xlm-roberta": Family("XLMRobertaForTokenClassification", read, write, lambda _: TABLE),
    "camembert": Family("CamembertForTokenClassification", read, write, lambda _: TABLE),
}
