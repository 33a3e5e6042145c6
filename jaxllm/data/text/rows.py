"""Cutting token corpora into rows, and choosing the rows of each training step from several corpora by weight.

`Packed` puts several documents in a row, which do not attend to each other, and cuts long documents into pieces.
`Concatenated` cuts rows from one endless stream, with a new offset in every epoch (nanoGPT draws the offset of every
row; here an epoch sees every token once). The rows of a step depend on the seed and the step alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.data.loader import Loader
from jaxllm.data.packing import Example, best_fit, collate, even_rows
from jaxllm.data.text.token_cache import Corpus
from jaxllm.types import Batch, InputError

CYCLE = 1000
"""The number of rows in which each corpus of a mixture gets its share, to the nearest row."""


class Packed:
    """Documents packed into rows of `length` tokens by best fit, or with `pack=False` one piece of a document a row."""

    def __init__(self, corpus: Corpus, length: int, pack: bool = True):
        self.corpus, self.length = corpus, length
        # The last token of a document predicts nothing, so it gets no piece of its own.
        starts, lengths = cut_pieces(corpus.starts, corpus.ends, length, spare=1)
        order, row_ends = pack_pieces(lengths, length, pack)
        self._starts, self._lengths, self._row_ends = starts[order], lengths[order], row_ends

    def __len__(self) -> int:
        return len(self._row_ends)

    def row(self, index: int, offset: float = 0.0) -> list[Example]:
        """The pieces of documents in a row."""
        low, high = (self._row_ends[index - 1] if index else 0), self._row_ends[index]
        return [self._piece(int(self._starts[i]), int(self._lengths[i])) for i in range(low, high)]

    def in_order(self) -> Iterator[list[Example]]:
        """All rows, for evaluations."""
        return (self.row(i) for i in range(len(self)))

    @property
    def evaluated(self) -> int:
        """The number of rows that `in_order` gives."""
        return len(self)

    def _piece(self, start: int, length: int) -> Example:
        ends, stop = self.corpus.ends, start + length
        whole = self.corpus.tokens[start : stop + 1].astype(np.int32)
        learnt = length - int(ends[np.searchsorted(ends, stop)] == stop)  # at its end, nothing of the document follows
        targets, weights = np.zeros(length, np.int32), np.ones(length, np.float32)
        targets[:learnt], weights[learnt:] = whole[1 : learnt + 1], 0
        return Example(whole[:length], targets, weights)


class Concatenated:
    """Rows of `length` tokens cut from the concatenated documents, one segment each; the end continues at the start."""

    def __init__(self, corpus: Corpus, length: int):
        self.corpus, self.length = corpus, length

    def __len__(self) -> int:
        return len(self.corpus.tokens) // self.length

    def row(self, index: int, offset: float = 0.0) -> list[Example]:
        """The one example of a row."""
        start = int(offset * len(self.corpus.tokens)) + index * self.length
        return [_shifted(np.take(self.corpus.tokens, np.arange(start, start + self.length + 1), mode="wrap"))]

    def in_order(self) -> Iterator[list[Example]]:
        """The stream from its first token to its last, for evaluations; the last row may be shorter."""
        return ([_shifted(self.corpus.tokens[i : i + self.length + 1])] for i in self._starts)

    @property
    def evaluated(self) -> int:
        """The number of rows that `in_order` gives."""
        return len(self._starts)

    @property
    def _starts(self) -> range:
        return range(0, len(self.corpus.tokens) - 1, self.length)


Rows = Packed | Concatenated
"""A corpus cut into rows: `len(rows)` rows an epoch, `rows.row(index, offset)` with an offset in [0, 1) drawn for each
epoch, and the `rows.evaluated` rows of `rows.in_order()`."""


def _shifted(tokens: np.ndarray) -> Example:
    tokens = tokens.astype(np.int32)
    return Example(tokens[:-1], tokens[1:], np.ones(len(tokens) - 1, np.float32))


def cut_pieces(starts: np.ndarray, ends: np.ndarray, length: int, spare: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The starts and lengths of pieces of at most `length` tokens of documents [start, end).

    spare: so many tokens at the end of a document get no piece of their own.
    """
    counts = np.maximum(0, -(-(ends - starts - spare) // length))
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    cut = np.repeat(starts, counts) + nth * length
    return cut, np.minimum(length, np.repeat(ends, counts) - cut)


def pack_pieces(lengths: np.ndarray, length: int, pack: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The order of pieces in rows, and the number of pieces up to the end of each row; unpacked, one piece a row."""
    if not pack:
        return np.arange(len(lengths)), np.arange(len(lengths)) + 1
    full = np.flatnonzero(lengths == length)
    # In random order, or best fit would put neighbours of one length into the same row.
    short = np.random.default_rng(0).permutation(np.flatnonzero(lengths < length))
    rows = best_fit(lengths[short].tolist(), length, length)
    order = np.concatenate([full, *(short[row] for row in rows)])
    sizes = np.concatenate([np.ones(len(full), np.int64), np.array([len(row) for row in rows], np.int64)])
    return order, np.cumsum(sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class TextPlan:
    """The rows of each step: `rows` of them, drawn from several corpora by weight.

    Each pass over a corpus has a new order, independent of the passes over the others. An epoch is `steps` steps: as
    many rows as all corpora have together.
    """

    parts: tuple[Any, ...]
    weights: tuple[float, ...]
    rows: int
    seed: int

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        return -(-sum(len(part) for part in self.parts) // self.rows)

    def step(self, index: int) -> list[list[int]]:
        """The rows of a step, counted from the start of the run, each as [corpus, epoch of the corpus, row]."""
        return [self._row(index * self.rows + r) for r in range(self.rows)]

    def _row(self, number: int) -> list[int]:
        cycle, slot = divmod(number, CYCLE)
        who, nth = self._cycle(cycle)
        part = int(who[slot])
        epoch, at = divmod(cycle * self._shares[part] + int(nth[slot]), len(self.parts[part]))
        return [part, epoch, int(self._order(part, epoch)[at])]

    @functools.cached_property
    def _shares(self) -> list[int]:
        """The number of rows of each corpus in a cycle, by largest remainder."""
        exact = np.array(self.weights) * CYCLE / sum(self.weights)
        shares = exact.astype(np.int64)
        shares[np.argsort(shares - exact, kind="stable")[: CYCLE - shares.sum()]] += 1
        return shares.tolist()

    @functools.lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its run)
    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """The corpus of each slot of a cycle, and the number of its slots before that one."""
        who = np.repeat(np.arange(len(self.parts)), self._shares)
        np.random.default_rng((self.seed, 1, cycle)).shuffle(who)
        nth = np.empty(CYCLE, np.int64)
        for part, share in enumerate(self._shares):
            nth[who == part] = np.arange(share)
        return who, nth

    @functools.lru_cache(maxsize=32)  # noqa: B019
    def _order(self, part: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 2, part, epoch)).permutation(len(self.parts[part]))

    def example_row(self, part: int, epoch: int, row: int) -> list[Example]:
        """The examples in a row of a step."""
        return self.parts[part].row(row, np.random.default_rng((self.seed, 3, part, epoch)).random())

    @property
    def length(self) -> int:
        """The number of tokens in a row."""
        return self.parts[0].length

    def describe(self) -> str:
        """The plan in one line, for the terminal."""
        tokens = sum(len(part.corpus.tokens) for part in self.parts)
        return f"{self.rows} rows of {self.length} a step, {self.steps:,} steps an epoch of {tokens:,} tokens"


def check_rows(plan: TextPlan) -> None:
    """Raises InputError for a corpus without a row, and for a weight that gives a corpus none."""
    for part, share in zip(plan.parts, plan._shares, strict=True):
        if not len(part):
            raise InputError(f"{part.corpus.name}: there is no text in it; check the data")
        if not share:
            raise InputError(f"{part.corpus.name}: its weight is below one row in {CYCLE}; raise it or leave it out")


def text_loader(parts: Sequence[Rows], weights: Sequence[float], *, batch_size: int, seed: int) -> Loader:
    """A loader of `batch_size` rows a step from these corpora.

    Raises InputError for a corpus that does not fill a row, and for a weight that gives a corpus no row.
    """
    for part in parts:
        if (tokens := len(part.corpus.tokens)) <= part.length:
            raise InputError(
                f"{part.corpus.name}: {tokens} tokens do not fill one row of {part.length}; give more text, or a "
                "smaller --max-length"
            )
    plan = TextPlan(tuple(parts), tuple(weights), batch_size, seed)
    check_rows(plan)

    def build(rows: list[list[int]], count: int) -> Batch:
        return collate([plan.example_row(*row) if row else [] for row in rows], plan.length, count)

    return Loader(plan, build)


def collate_all(rows: Iterator[list[Example]], length: int, count: int) -> Iterator[Batch]:
    """Batches of `count` of these rows of examples."""
    while batch := list(itertools.islice(rows, count)):
        yield collate(batch, length, count)


@dataclasses.dataclass(frozen=True)
class TextBatches:
    """Every token of these corpora once, in batches of about `most` rows, a multiple of `multiple`."""

    parts: Sequence[Rows]
    most: int
    multiple: int = 1

    @property
    def size(self) -> int:
        """The size of the texts in bytes."""
        return sum(part.corpus.size for part in self.parts)

    def __iter__(self) -> Iterator[Batch]:
        rows = itertools.chain.from_iterable(part.in_order() for part in self.parts)
        count = even_rows(sum(part.evaluated for part in self.parts), self.most, self.multiple)
        return collate_all(rows, self.parts[0].length, count)
