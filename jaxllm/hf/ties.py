"""Whether a language model's head is its embedding table: config.json says so, unless the files have another head."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.hf import files
from jaxllm.hf.config import Fields
from jaxllm.hf.families import LANGUAGE_MODELS
from jaxllm.hf.table import COMPILED, Table, known_name

HEAD = "lm_head.weight"
TABLE = "embeddings.tokens.embedding"
"""Our parameter."""
_ROWS = 4096
"""Rows of the two matrices that are compared at a time."""


def untie(raw: dict[str, Any], where: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a language model, untied where the files have a head that differs; and a note on it.

    So does `transformers` (`PreTrainedModel.tie_weights`). raw, where: the contents of config.json, and its path.
    """
    family = LANGUAGE_MODELS.get(str(raw.get("model_type")))
    config = family.read(Fields(raw, where)) if family else None
    if family is None or config is None or not config.tied:
        return raw, []
    entries = files.open_folder(folder)
    head, table = head_of(entries), embedding_of(entries, family.table(config))
    if head is None or table is None or are_equal(entries[table], entries[head]):
        return raw, []
    note = f"{head} differs from {table}: a head of its own, although config.json says tie_word_embeddings"
    return {**raw, "tie_word_embeddings": False}, [note]


def read_head_as_table(names: Table, entries: Mapping[str, Any]) -> Table:
    """The names of a tied model whose files have the head alone, which is then the embedding table."""
    tied = r"lm_head\.weight" in names.ignore and not names.heads
    if not tied or head_of(entries) is None or embedding_of(entries, names):
        return names
    return dataclasses.replace(names, renames=(*names.renames, (r"^(.*\.)?lm_head\.weight$", _table_name(names))))


def head_of(entries: Mapping[str, Any]) -> str | None:
    """The name of the head in the files."""
    return next((name for name in entries if name.replace(COMPILED, "") == HEAD), None)


def embedding_of(entries: Mapping[str, Any], names: Table) -> str | None:
    """The name of the embedding table in the files."""
    theirs = _table_name(names)
    return next((name for name in entries if known_name(names, {theirs}, name) == theirs), None)


def is_tied_lm(parameters: Collection[str]) -> bool:
    """Whether these are the parameters of a language model whose head is the embedding table."""
    heads = {"unembed.kernel", "score.kernel", "classifier.kernel"}
    return TABLE in parameters and not heads.intersection(parameters)


def _table_name(names: Table) -> str:
    return next(rule.theirs for rule in names.rules if rule.ours == (TABLE,))


def are_equal(a: files.Entry, b: files.Entry) -> bool:
    """Whether two matrices in files have the same values, read a part at a time."""
    if a.shape != b.shape:
        return False
    x, y = a.map(), b.map()
    parts = (slice(start, start + _ROWS) for start in range(0, a.shape[0], _ROWS))
    return all(np.array_equal(x[part], y[part].astype(x.dtype)) for part in parts)
