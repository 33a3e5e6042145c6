"""Packing examples into rows, and rows into a Batch.

A plan is made once, from the lengths alone: best-fit decreasing bin packing into rows of one length. Each epoch then
shuffles the examples of equal length among their places, and the rows among the steps. So every epoch has the same
number of rows and steps, any step can be built without those before it, and the whole run has one compiled shape.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.types import Batch, InputError

WANTED_FILL = 0.95
"""Fraction of the positions that should hold tokens, for which row lengths may be multiples of 8 and not of 16."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence: tokens and targets (int32) and weights (float32), all of one length.

    types: of a pair of texts, the token types (int32); None for none. All examples of a data set have them or none.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    types: np.ndarray | None = None


class Location(NamedTuple):
    """The location of an example in a batch: the example's number, its row and its first position there."""

    example: int
    row: int
    start: int


def best_fit(lengths: Sequence[int], row_length: int, most: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: example numbers per row, at most `most` of them.

    Raises ValueError for an example longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room left -> rows
    rooms: list[int] = []  # keys of open_rows, sorted
    for example in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[example])
        if length > row_length:
            raise ValueError(f"example {example} has {length} tokens, a row {row_length}")
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), row_length
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(example)
        if (left := room - length) and len(rows[row]) < most:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(rooms, left)
            open_rows[left].append(row)
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Rows of examples for every step of a run.

    `layout` is the packing before shuffling. An epoch has `steps` steps of at most `rows` rows of `row_length` tokens;
    the packed rows are spread over them evenly.
    """

    lengths: np.ndarray
    layout: tuple[tuple[int, ...], ...]
    row_length: int
    rows: int
    steps: int
    seed: int | None

    def step(self, index: int) -> list[list[int]]:
        """The examples in each row of a step, counted from the start of the run; possibly fewer than `rows` lists."""
        epoch, step = divmod(index, self.steps)
        layout = self._epoch(epoch)
        low, high = (len(layout) * i // self.steps for i in (step, step + 1))
        return layout[low:high]

    @functools.lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its run)
    def _epoch(self, epoch: int) -> list[list[int]]:
        if self.seed is None:
            return [list(row) for row in self.layout]
        rng = np.random.default_rng((self.seed, epoch))
        # The k-th longest example takes the place of the k-th longest in the layout; ties are broken at random.
        slots = np.concatenate([np.asarray(row) for row in self.layout])
        filled = np.empty(len(self.lengths), np.int64)
        filled[np.argsort(self.lengths, kind="stable")] = np.lexsort((rng.random(len(self.lengths)), self.lengths))
        ends = np.cumsum([len(row) for row in self.layout])
        rows = [row.tolist() for row in np.split(filled[slots], ends[:-1])]
        return [rows[i] for i in rng.permutation(len(rows))]

    @property
    def fill(self) -> float:
        """The fraction of all positions that hold tokens."""
        return float(self.lengths.sum()) / (self.steps * self.rows * self.row_length)

    def describe(self) -> str:
        """The plan in one line, for the terminal."""
        examples = len(self.lengths) / self.steps
        shape = f"{self.rows} rows of {self.row_length} a step"
        return f"{shape} ({examples:.1f} examples, {self.fill:.0%} full), {self.steps} steps an epoch"


def make_plan(
    lengths: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    multiple: int = 1,
    pack: bool = True,
    seed: int | None = None,
    first_multiple: int = 0,
) -> Plan:
    """Plans an epoch in steps of `batch_size` examples on average.

    lengths: tokens of each example. multiple: the number of rows is a multiple of this (the mesh needs it). seed: None
    keeps the order of the layout, for evaluations. first_multiple: `multiple` when the run began, 0 for the same: on
    another mesh the same examples share the same rows, and the rows that are added are empty. Raises InputError where
    there are no examples, and for unpacked rows whose number is no multiple of `multiple`.
    """
    if not len(lengths):
        raise InputError("no examples to train on: the data set is empty")
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: at least 1 is needed")
    sizes = np.asarray(lengths, np.int64)
    steps = -(-len(sizes) // batch_size)
    if not pack:
        if batch_size % multiple:
            near = _round_up(batch_size, multiple)
            raise InputError(
                f"--batch-size {batch_size} does not divide over {multiple} devices; use {near}, or --pack"
            )
        length = _round_up(int(sizes.max()), 16)
        return Plan(sizes, tuple((i,) for i in range(len(sizes))), length, batch_size, steps, seed)

    wanted, multiple = multiple, first_multiple or multiple

    def rows_needed(row_length: int) -> int:
        return _round_up(max(1, int(np.ceil(sizes.sum() / (0.985 * steps * row_length)))), multiple)

    def waste(plan: Plan) -> tuple[int, int]:
        return plan.rows * plan.row_length, plan.row_length

    def packed(row_length: int) -> Plan:
        # No row holds more than a step's examples, or there would be steps without any.
        layout = tuple(tuple(row) for row in best_fit(sizes.tolist(), row_length, batch_size))
        return Plan(sizes, layout, row_length, _round_up(-(-len(layout) // steps), multiple), steps, seed)

    def least(grid: int) -> Plan:
        # The number of rows is rounded up: of row lengths up to twice the longest example, the least wasteful.
        shortest, longest = _round_up(int(sizes.max()), grid), 2 * _round_up(int(sizes.max()), 16)
        candidates = sorted(
            range(shortest, longest + 1, grid), key=lambda length: (rows_needed(length) * length, length)
        )
        tried = candidates[: max(1, 50_000 // len(sizes))]
        return min((packed(length) for length in tried), key=waste)

    best = least(16)  # the tile of bfloat16 on a TPU
    if best.fill < WANTED_FILL:
        best = max(best, least(8), key=lambda plan: plan.fill)
    return dataclasses.replace(best, rows=_round_up(best.rows, wanted))


def bucket(n: int) -> int:
    """A length of rows: 16, 24, 32, 48, 64, 96, ..., so that few shapes are compiled."""
    size = 16
    while size < n:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def fixed_plan(lengths: Sequence[int] | np.ndarray, *, row_length: int, rows: int) -> Plan:
    """A plan in steps of `rows` rows of `row_length` tokens, whatever the number of examples: one compiled shape.

    Raises ValueError for an example longer than a row.
    """
    sizes = np.asarray(lengths, np.int64)
    layout = tuple(tuple(row) for row in best_fit(sizes.tolist(), row_length, row_length))
    return Plan(sizes, layout, row_length, rows, -(-len(layout) // rows), None)


def even_rows(count: int, most: int, multiple: int = 1) -> int:
    """The rows of a batch where `count` rows are spread evenly over as few batches as hold them.

    most: of the rows of a batch; like the result it is rounded up to a multiple of `multiple`.
    """
    batches = max(1, -(-count // _round_up(most, multiple)))
    return _round_up(max(1, -(-count // batches)), multiple)


def collate(rows: Sequence[Sequence[Example]], row_length: int, count: int, *, typed: bool = False) -> Batch:
    """Packs rows of examples into a Batch of `count` rows (numpy), padded with zeros. typed: they have token types."""
    shape = (count, row_length)
    tokens, targets, segments, positions, types = (np.zeros(shape, np.int32) for _ in range(5))
    weights = np.zeros(shape, np.float32)
    for r, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            span = slice(start, start + len(example.tokens))
            tokens[r, span], targets[r, span], weights[r, span] = example.tokens, example.targets, example.weights
            segments[r, span], positions[r, span] = segment, np.arange(len(example.tokens))
            if example.types is not None:
                types[r, span] = example.types
            start = span.stop
    kinds = types if typed else None
    return Batch(tokens, targets, weights, segments, positions, types_BT=kinds)  # type: ignore[arg-type]


def locate(rows: Sequence[Sequence[int]], lengths: Sequence[int] | np.ndarray) -> list[Location]:
    """The location that `collate` gives to each example of these rows."""
    found = []
    for r, row in enumerate(rows):
        start = 0
        for example in row:
            found.append(Location(example, r, start))
            start += int(lengths[example])
    return found


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
