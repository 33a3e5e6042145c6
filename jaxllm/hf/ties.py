"""What the tensors say of a head beyond config.json: whether it is the embedding table, and how it is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.hf import files
from jaxllm.hf.config import Fields
from jaxllm.hf.families import LANGUAGE_MODELS, MASKED
from jaxllm.hf.masked import head_of as masked_head
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
    return _untied(raw, entries, head_of(entries), family.table(config), "head")


def read_as_found(raw: dict[str, Any], where: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a masked language model, mended by the names of its tensors; and notes on what was mended.

    DeBERTa-v3 is published with a head called `lm_predictions` and no field that says so, and a decoder that differs
    from the embedding table is a matrix of its own, whatever `tie_word_embeddings` is. Arguments as of `untie`.
    """
    kind, notes, entries = str(raw.get("model_type")), list[str](), files.open_folder(folder)
    if kind not in MASKED:
        return raw, notes
    found = {name.replace(COMPILED, ""): name for name in entries}
    if kind == "deberta-v2" and f"{masked_head(kind, legacy=False).dense}.weight" in found and raw.get("legacy", True):
        notes.append("the head is called lm_predictions, so legacy is false")
        raw = {**raw, "legacy": False}
    config = MASKED[kind].read(Fields(raw, where))
    if not config.tied:
        return raw, notes
    decoder = found.get(f"{masked_head(kind, config.legacy).decoder}.weight")
    raw, more = _untied(raw, entries, decoder, MASKED[kind].table(config), "decoder")
    return raw, [*notes, *more]


def _untied(
    raw: dict[str, Any], entries: files.Entries, head: str | None, names: Table, called: str
) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a tied model and a note on it, untied where this head differs from the embedding table."""
    table = embedding_of(entries, names)
    if head is None or table is None or are_equal(entries[table], entries[head]):
        return raw, []
    note = f"{head} differs from {table}: a {called} of its own, although config.json says tie_word_embeddings"
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
