"""Entities in running text, by a trained token classifier: with character offsets and scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging import schemes
from jaxllm.data.tagging.windows import stitch
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.ner import outputs
from jaxllm.train.forward import Runner

WORD = re.compile(r"\w+|[^\w\s]")
"""How running text is cut into words."""

Entity = dict[str, Any]
"""entity_group, score, word, start, end, as transformers' pipeline("token-classification") names them."""


def tag(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text, sub-word by sub-word: transformers' aggregation_strategy="simple"."""
    windows, parts = ner.encode_text(texts, tokenizer, max_length)
    return [
        ner.group_entities(part, label, score, labels, tokenizer)
        for part, (label, score) in zip(parts, _predict(model, windows), strict=True)
    ]


def tag_words(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text in whole words, each by the label of its first sub-word, which training teaches.

    transformers' aggregation_strategy="first" finds the same where its tokenizer marks sub-words, as BERT's does; for
    byte-level tokenizers, RoBERTa's for one, that takes a word with its punctuation for one word. Words are joined to
    entities by `schemes.entities`, as in evaluation, for labels of every scheme.
    """
    spans = [[match.span() for match in WORD.finditer(text)] for text in texts]
    words = [[text[a:b] for a, b in found] for text, found in zip(texts, spans, strict=True)]
    windows = ner.encode([ner.Sentence(part, None, "text") for part in words], tokenizer, labels, max_length)
    found: list[list[Entity]] = []
    for text, at, (label, score) in zip(texts, spans, _predict(model, windows), strict=True):
        entities: list[Entity] = []
        for kind, first, stop in schemes.entities([labels[number] for number in label.tolist()]):
            start, end, p = at[first][0], at[stop - 1][1], score[first:stop].tolist()
            named = {"entity_group": kind, "score": sum(p) / len(p), "word": text[start:end]}
            entities.append({**named, "start": start, "end": end})
        found.append(entities)
    return found


def _predict(model: Runner, windows: ner.Windows) -> list[tuple[Any, Any]]:
    """Label number and probability of each token, or word, of each text."""
    if not windows.examples:
        return [(np.zeros(count, np.int32), np.zeros(count)) for count in windows.counts]
    plan = make_plan(lengths(windows.examples), batch_size=64, multiple=row_multiple(model.mesh))
    found = outputs(model, windows, EvalBatches(windows.examples, plan))
    return list(zip(stitch(windows, found["label"]), stitch(windows, found["score"]), strict=True))


def show(text: str, entities: Sequence[Entity]) -> str:
    """The text with its entities in brackets, for a terminal."""
    shown, at = "", 0
    for e in entities:
        shown += f"{text[at : e['start']]}[bold]{text[e['start'] : e['end']]}[/bold][dim]({e['entity_group']})[/dim]"
        at = e["end"]
    return shown + text[at:]
