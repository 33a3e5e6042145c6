"""Serves a plan: batches by step, prefetched by threads, each process its own rows.

The batch of a step depends on the plan and the step alone, never on how many processes there are or where a run began,
so a position in the data is one number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.data.packing import Example, Place, Plan, collate, places
from jaxllm.types import Batch


@dataclasses.dataclass(frozen=True)
class Loader:
    """Batches of a plan. `build(rows of example numbers, count)` makes `count` rows of numpy arrays."""

    plan: Plan
    build: Callable[[list[list[int]], int], Any]

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Any:
        """The batch of a step, or of it only the given rows (numpy arrays)."""
        dealt = self.plan.step(step)
        wanted = range(self.plan.rows) if rows is None else rows
        return self.build([dealt[r] if r < len(dealt) else [] for r in wanted], len(wanted))

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Any]:
        """Batches of the steps from `start` to before `stop`, prefetched; resuming costs nothing."""
        import grain  # 1.3 s, and evaluations do not need it

        data = grain.MapDataset.range(start, stop).map(lambda step: self.batch(int(step), rows))
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def loader(examples: Sequence[Example], plan: Plan) -> Loader:
    """A loader of plain examples: `collate`d rows."""
    return Loader(
        plan, lambda rows, count: collate([[examples[i] for i in row] for row in rows], plan.row_length, count)
    )


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Every example once, in fixed batches: iterating gives (Batch, where each example lies in it)."""

    examples: Sequence[Example]
    plan: Plan

    def __iter__(self) -> Iterator[tuple[Batch, list[Place]]]:
        for step in range(self.plan.steps):
            rows = self.plan.step(step)
            packed = [[self.examples[i] for i in row] for row in rows]
            yield collate(packed, self.plan.row_length, self.plan.rows), places(rows, self.plan.lengths)

    def __len__(self) -> int:
        return self.plan.steps


def lengths(examples: Sequence[Example]) -> np.ndarray:
    """Tokens of each example, int64."""
    return np.fromiter((len(example.tokens) for example in examples), np.int64, len(examples))
