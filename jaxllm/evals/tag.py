"""Entities in running text, by a trained token classifier: with character offsets and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import Location, fixed_plan
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging import schemes
from jaxllm.data.tagging.chains import Chain
from jaxllm.data.tagging.untagged import running
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.aggregation import group_entities
from jaxllm.evals.decoding import decide, words_of
from jaxllm.evals.ner import label_logps, outputs
from jaxllm.train.forward import Runner
from jaxllm.types import Batch

Entity = dict[str, Any]
"""entity_group, score, word, start, end, as transformers' pipeline("token-classification") names them."""

ROW, ROWS = 64, 64
"""The length of a row, in tokens, and the rows of a batch: short examples share rows of this shape."""


def tag(
    model: Runner,
    tokenizer: Any,
    labels: Sequence[str],
    texts: Sequence[str],
    max_length: int,
    aggregation: str = "simple",
) -> list[list[Entity]]:
    """The entities of each text, as transformers' pipeline with this aggregation_strategy (evals/aggregation.py)."""
    windows, parts = ner.encode_text(texts, tokenizer, max_length)
    scores = [np.exp(x) for x in words_of(windows, log_probabilities(model, windows), len(labels))[0]]
    return group_entities(parts, scores, labels, tokenizer, aggregation)


def tag_words(
    model: Runner,
    tokenizer: Any,
    labels: Sequence[str],
    texts: Sequence[str],
    max_length: int,
    chain: Chain | None = None,
) -> list[list[Entity]]:
    """The entities of each text in whole words, each by the label of its first sub-word, which training teaches.

    transformers' aggregation_strategy="first" finds the same where its tokenizer marks sub-words, as BERT's does; for
    byte-level tokenizers, RoBERTa's for one, that takes a word with its punctuation for one word. Words are joined to
    entities by `schemes.entities`, as in evaluation, for labels of every scheme. chain: as for `label_words`.
    """
    lines = [running(text) for text in texts]
    sentences = [line.sentence("text") for line in lines]
    found = label_words(model, tokenizer, labels, sentences, max_length, chain)
    return [join_words(line.text, line.spans, *tagged) for line, tagged in zip(lines, found, strict=True)]


def join_words(text: str, spans: Sequence[tuple[int, int]], tags: Sequence[str], scores: np.ndarray) -> list[Entity]:
    """The entities of tagged words that lie at these spans of a text; the score is the mean of its words'."""
    entities: list[Entity] = []
    for kind, first, stop in schemes.entities(tags):
        start, end, p = spans[first][0], spans[stop - 1][1], scores[first:stop].tolist()
        named = {"entity_group": kind, "score": sum(p) / len(p), "word": text[start:end]}
        entities.append({**named, "start": start, "end": end})
    return entities


def label_words(
    model: Runner,
    tokenizer: Any,
    labels: Sequence[str],
    sentences: Sequence[ner.Sentence],
    max_length: int,
    chain: Chain | None = None,
    context: int = 0,
) -> list[tuple[list[str], np.ndarray]]:
    """The tag of each word of each sentence, and its probability (0, and tag "O", for a word without tokens).

    chain: of neighbouring labels, as `decoding.find_chain` gives it; None for each word's own likeliest label.
    context: as for `ner.encode`.
    """
    windows = ner.encode(sentences, tokenizer, labels, max_length, context)
    whole, there = words_of(windows, log_probabilities(model, windows), len(labels))
    numbers, scores = decide(whole, there, chain)
    return [([labels[i] for i in path.tolist()], score) for path, score in zip(numbers, scores, strict=True)]


def log_probabilities(model: Runner, windows: ner.Windows) -> list[np.ndarray]:
    """log p of each label at each position of each window, [T, V]. Few batch shapes serve any number of windows."""
    return outputs(model, windows, _batches(windows, row_multiple(model.mesh)), label_logps)["logps"]


def _batches(windows: ner.Windows, multiple: int) -> Iterator[tuple[Batch, list[Location]]]:
    """Batches of all windows: short ones packed in rows of one length, long ones in rows of twice that, and so on.

    A batch has ROWS such rows, of long ones fewer, so that it has as many tokens; where one batch is enough, a power
    of two. So the compiled shapes are few.
    """
    sizes = lengths(windows.examples)
    row_length, low = ROW, 0
    while low < max(sizes, default=0):
        members = np.flatnonzero((sizes > low) & (sizes <= row_length))
        if len(members):
            full = max(1, ROWS * ROW // row_length)
            needed = fixed_plan(sizes[members], row_length=row_length, rows=full)
            rows = full if needed.steps > 1 else 1 << (len(needed.layout) - 1).bit_length()
            plan = dataclasses.replace(needed, rows=-(-min(rows, full) // multiple) * multiple)
            for batch, places in EvalBatches([windows.examples[i] for i in members], plan):
                yield batch, [place._replace(example=int(members[place.example])) for place in places]
        low, row_length = row_length, 2 * row_length


def show(text: str, entities: Sequence[Entity]) -> str:
    """The text with its entities in brackets, for a terminal."""
    shown, at = "", 0
    for e in entities:
        shown += f"{text[at : e['start']]}[bold]{text[e['start'] : e['end']]}[/bold][dim]({e['entity_group']})[/dim]"
        at = e["end"]
    return shown + text[at:]
