"""Encoding texts as examples for a classifier, and packing them with their targets.

A text is learned at one token, an encoder's first or a decoder's last: the target stands there with the text's weight,
and all other weights are 0. Targets that are vectors lie beside the batch, one row per text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data.labelled.rows import Text
from jaxllm.data.loader import Loader, loader
from jaxllm.data.packing import Example, Plan
from jaxllm.data.report import Report
from jaxllm.types import InputError, Labelled


def targets_of(texts: Sequence[Text], labels: Sequence[str], problem: str) -> np.ndarray:
    """The targets of texts with labels: the class of each (int32 [N]), 0 and 1 by label (float32 [N, V]), or a number
    (float32 [N, 1])."""
    number_of = {label: i for i, label in enumerate(labels)}
    if problem == "single":
        return np.array([number_of[str(text.label)] for text in texts], np.int32)
    if problem == "regression":
        return np.array([[text.label] for text in texts], np.float32)
    found = np.zeros((len(texts), len(labels)), np.float32)
    for row, text in zip(found, texts, strict=True):
        assert isinstance(text.label, tuple)
        row[[number_of[name] for name in text.label]] = 1
    return found


def encode(
    texts: Sequence[Text], tokenizer: Any, max_length: int, *, last: bool, types: int = 0, report: Report | None = None
) -> list[Example]:
    """Texts as the tokenizer writes them for `transformers`, cut to `max_length` tokens, special tokens included.

    last: read at the last token that is no padding, not the first. types: rows of the model's token-type embedding.
    report: counts what is cut. The weight is 1 at the token that is read, and the target 0. Raises InputError.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} is no fast tokenizer; give one that has a tokenizer.json")
    if not texts:
        return []
    paired = texts[0].pair is not None
    room = max_length - tokenizer.num_special_tokens_to_add(pair=paired)
    if room < 1 + paired:
        raise InputError(f"--max-length {max_length} leaves no room beside the special tokens; raise it")
    first, second = [text.text for text in texts], [text.pair for text in texts] if paired else None
    encodings = tokenizer(first, second, truncation=True, max_length=max_length, padding=False).encodings
    typed = paired and types > 1 and "token_type_ids" in tokenizer.model_input_names
    examples = []
    for text, encoding in zip(texts, encodings, strict=True):
        tokens = np.asarray(encoding.ids, np.int32)
        if not len(tokens):
            raise InputError(f"{text.where}: a text without tokens; leave the row out")
        if encoding.overflowing and report is not None:
            report.cut["texts"] += 1
            report.cut_rows += 1
        weights = np.zeros(len(tokens), np.float32)
        real = np.flatnonzero(tokens != tokenizer.pad_token_id) if last else np.zeros(0, np.int64)
        weights[real[-1] if len(real) else 0] = 1
        kinds = np.asarray(encoding.type_ids, np.int32) if typed else None
        examples.append(Example(tokens, np.zeros(len(tokens), np.int32), weights, kinds))
    return examples


def with_targets(examples: Sequence[Example], targets: np.ndarray, weights: np.ndarray) -> list[Example]:
    """The examples that learn a class each: its number, and the text's weight (float32 [N]), at the token that is read.

    targets: of one label, int32 [N]; others are left to `labelled_loader`.
    """
    numbers = targets if targets.ndim == 1 else np.zeros(len(targets), np.int32)
    found = []
    for example, number, weight in zip(examples, numbers, weights, strict=True):
        at = (example.weights != 0).astype(np.int32)
        found.append(Example(example.tokens, at * number, (at * weight).astype(np.float32), example.types))
    return found


def labelled_loader(examples: Sequence[Example], targets: np.ndarray, plan: Plan) -> Loader:
    """A loader of `Batch`, or where targets are vectors (float32 [N, V]) of `Labelled`."""
    plain = loader(examples, plan)
    if targets.ndim == 1:
        return plain
    slots, width = max(len(row) for row in plan.layout), targets.shape[-1]

    def build(rows: list[list[int]], count: int) -> Labelled:
        batch = plain.build(rows, count)
        found = np.zeros((count, slots, width), np.float32)
        for r, row in enumerate(rows):
            found[r, : len(row)] = targets[row]
        which = np.where(batch.weights_BT != 0, batch.segments_BT - 1, 0).astype(np.int32)
        return Labelled(dataclasses.replace(batch, targets_BT=which), found)  # type: ignore[arg-type]

    return Loader(plan, build)
