"""Serves a plan: batches by step, prefetched by threads, each process its own rows.

The batch of a step depends on the plan and the step alone, never on how many processes there are or where a run began,
so a position in the data is one number.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jaxllm.data.packing import Example, Place, Plan, collate, places
from jaxllm.types import Batch


class Steps(Protocol):
    """What a loader serves: `steps` an epoch, each of at most `rows` rows."""

    @property
    def rows(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def step(self, index: int) -> list[list[int]]:
        """What `build` needs to know of each row of a step counted from the start of the run."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """Batches of a plan. `build(rows of example numbers, count)` makes `count` rows of numpy arrays.

    noise(batch, step, row numbers), if any, changes what was built, the same way whenever the step is built again.
    """

    plan: Steps
    build: Callable[[list[list[int]], int], Any]
    noise: Callable[[Any, int, Sequence[int]], Any] | None = None

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Any:
        """The batch of a step, or of it only the given rows (numpy arrays)."""
        dealt = self.plan.step(step)
        wanted = range(self.plan.rows) if rows is None else rows
        batch = self.build([dealt[r] if r < len(dealt) else [] for r in wanted], len(wanted))
        return batch if self.noise is None else self.noise(batch, step, wanted)

    def fingerprint(self) -> str:
        """What changes when the examples do, or their order, and not with the mesh: a hash of rows of the first epoch.

        Of their integers: what another model said of the tokens may differ by rounding.
        """
        state = hashlib.sha256(str(self.plan.steps).encode())
        for step in sorted({0, self.plan.steps // 2, self.plan.steps - 1}):
            for x in _leaves(self.build(self.plan.step(step)[:1], 1)):
                if np.issubdtype(x.dtype, np.integer):
                    state.update(str(x.shape).encode() + np.ascontiguousarray(x).tobytes())
        return state.hexdigest()[:16]

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Any]:
        """Batches of the steps from `start` to before `stop`, prefetched; resuming costs nothing."""
        import grain  # 1.3 s, and evaluations do not need it

        data = grain.MapDataset.range(start, stop).map(lambda step: self.batch(int(step), rows))
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def _leaves(batch: Any) -> Iterator[np.ndarray]:
    if dataclasses.is_dataclass(batch):
        batch = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, dict):
        for name in sorted(batch):
            yield from _leaves(batch[name])
    elif batch is not None:
        yield np.asarray(batch)


def loader(
    examples: Sequence[Example], plan: Plan, noise: Callable[[Any, int, Sequence[int]], Any] | None = None
) -> Loader:
    """A loader of plain examples: `collate`d rows."""

    def build(rows: list[list[int]], count: int) -> Batch:
        return collate([[examples[i] for i in row] for row in rows], plan.row_length, count)

    return Loader(plan, build, noise)


def token_dropout(
    rate: float, unknown: int, special: Sequence[int], seed: int
) -> Callable[[Any, int, Sequence[int]], Any]:
    """Noise that makes a share `rate` of the tokens `unknown`, so that a model learns to read what stands around them.

    Padding and the `special` tokens stay. Each row of each step has a generator of its own.
    """

    def noise(batch: Batch, step: int, rows: Sequence[int]) -> Batch:
        tokens_BT = np.array(batch.tokens_BT)
        draws = [np.random.default_rng((seed, step, row)).random(tokens_BT.shape[1]) for row in rows]
        hit_BT = (np.stack(draws) < rate) & (np.asarray(batch.segments_BT) > 0) & ~np.isin(tokens_BT, special)
        tokens_BT[hit_BT] = unknown
        return dataclasses.replace(batch, tokens_BT=tokens_BT)  # type: ignore[arg-type]

    return noise


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
