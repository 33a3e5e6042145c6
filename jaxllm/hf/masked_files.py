"""What the tensors of a masked language model say beyond its config.json: how its head is called, and if it is tied."""

from __future__ import annotations

from typing import Any

from jaxllm.hf import files
from jaxllm.hf.config import Fields
from jaxllm.hf.families import MASKED
from jaxllm.hf.masked import head_of
from jaxllm.hf.table import COMPILED
from jaxllm.hf.ties import are_equal, embedding_of


def read_as_found(raw: dict[str, Any], where: str, entries: files.Entries) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a masked language model, mended by the names of its tensors; and notes on what was mended.

    DeBERTa-v3 is published with a head called `lm_predictions` and no field that says so, and a decoder that differs
    from the embedding table is a matrix of its own, whatever `tie_word_embeddings` is. raw, where: the contents of
    config.json, and its path.
    """
    kind, notes = str(raw.get("model_type")), list[str]()
    if kind not in MASKED:
        return raw, notes
    found = {name.replace(COMPILED, ""): name for name in entries}
    if kind == "deberta-v2" and f"{head_of(kind, legacy=False).dense}.weight" in found and raw.get("legacy", True):
        notes.append("the head is called lm_predictions, so legacy is false")
        raw = {**raw, "legacy": False}
    config = MASKED[kind].read(Fields(raw, where))
    decoder = found.get(f"{head_of(kind, config.legacy).decoder}.weight")
    table = embedding_of(entries, MASKED[kind].table(config))
    if not config.tied or decoder is None or table is None or are_equal(entries[table], entries[decoder]):
        return raw, notes
    note = f"{decoder} differs from {table}: a decoder of its own, although config.json says tie_word_embeddings"
    return {**raw, "tie_word_embeddings": False}, [*notes, note]
