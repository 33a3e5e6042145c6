"""Cutting long texts into overlapping windows, each an example, and joining arrays over windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.data.packing import Example
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Examples and, for each, its sentence, the words that are labelled in it, and their first positions in it.

    counts: words per sentence. For raw text, sentences are texts and words are tokens.
    """

    examples: list[Example]
    sentence: list[int]
    words: list[np.ndarray]
    positions: list[np.ndarray]
    counts: list[int]

    def append(self, example: Example, sentence: int, words: np.ndarray, positions: np.ndarray) -> None:
        """Adds a window."""
        self.examples.append(example)
        self.sentence.append(sentence)
        self.words.append(words)
        self.positions.append(positions)


def stitch(windows: Windows, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Joins arrays over positions, one per window, to arrays over words, one per sentence; 0 where untokenized."""
    shape, dtype = (arrays[0].shape[1:], arrays[0].dtype) if len(arrays) else ((), np.dtype(np.int32))
    whole = [np.zeros((count, *shape), dtype) for count in windows.counts]
    for array, number, words, positions in zip(arrays, windows.sentence, windows.words, windows.positions, strict=True):
        whole[number][words] = array[positions]
    return whole


def tokenize(inputs: list[Any], tokenizer: Any, *, split: bool) -> list[Any]:
    """Encodings of texts or, with `split`, lists of words, with special tokens, untruncated and unpadded."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} does not tell which word a token is of; give a fast tokenizer")
    if not inputs:
        return []
    options = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
    return tokenizer(inputs, is_split_into_words=split, **options).encodings


@dataclasses.dataclass(frozen=True)
class Body:
    """The tokens between the special tokens of an encoding, and the number of them that fit a window."""

    head: np.ndarray
    tokens: np.ndarray
    tail: np.ndarray
    at: np.ndarray  # positions of the tokens in the encoding
    room: int

    @classmethod
    def of(cls, encoding: Any, max_length: int) -> Body:
        """Raises InputError where special tokens alone fill `max_length`."""
        ids = np.asarray(encoding.ids, np.int32)
        at = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
        low, high = (int(at[0]), int(at[-1]) + 1) if len(at) else (len(ids), len(ids))
        special = low + len(ids) - high
        if max_length <= special:
            raise InputError(f"--max-length {max_length} leaves no room beside {special} special tokens; raise it")
        return cls(ids[:low], ids[at], ids[high:], at, max_length - special)

    def example(self, low: int, high: int, starts: np.ndarray) -> tuple[Example, np.ndarray]:
        """The window over tokens [low, high) with weights 0, and the positions in it of the tokens `starts`."""
        tokens = np.concatenate([self.head, self.tokens[low:high], self.tail])
        untrained = Example(tokens, np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32))
        return untrained, len(self.head) + starts - low


def widen(low: int, high: int, total: int, room: int, most: int) -> tuple[int, int]:
    """The window of tokens [low, high) with at most `most` of the `total` tokens more on either side, as room allows.

    Where there is no room for both sides they get as much each, and what one side lacks goes to the other.
    """
    left, right, spare = min(most, low), min(most, total - high), room - (high - low)
    left = min(left, max(spare // 2, spare - right))
    return low - left, high + min(right, spare - left)


def cut(starts: np.ndarray, total: int, room: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Cuts units (words or tokens) into windows of at most `room` tokens: yields [low, high) and the units it labels.

    starts: the first token of each unit; no unit is longer than `room`. Neighbouring windows overlap by about half, and
    the last is full. A unit belongs to the window where the smaller of its left and right contexts is largest.
    """
    if total <= room:
        if total:
            yield 0, total, np.arange(len(starts))
        return
    ends = np.append(starts[1:], total)
    spans, first = [], 0
    while (last := int(np.searchsorted(ends, starts[first] + room, side="right"))) < len(starts):
        spans.append((first, last))
        first = max(first + 1, min(last, int(np.searchsorted(starts, starts[first] + room // 2))))
    spans.append((int(np.searchsorted(starts, total - room)), len(starts)))
    owner, most = np.zeros(len(starts), np.int64), np.full(len(starts), -1)
    for window, (first, last) in enumerate(spans):
        context = np.minimum(starts[first:last] - starts[first], ends[last - 1] - ends[first:last])
        better = context > most[first:last]
        owner[first:last][better], most[first:last][better] = window, context[better]
    for window, (first, last) in enumerate(spans):
        units = first + np.flatnonzero(owner[first:last] == window)
        if len(units):
            yield int(starts[first]), int(ends[last - 1]), units
