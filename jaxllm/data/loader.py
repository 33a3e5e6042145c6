"""Loading batches by step: built from a plan, prefetched by a thread, only the rows of this process.

The batch of a step depends on the plan and the step alone, not on the number of processes or on where a run began, so
the position in the data is one number.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from jaxllm.data.packing import Example, Location, Plan, collate, locate
from jaxllm.types import Batch

AHEAD = 8
"""Batches that are made before they are asked for."""


class Steps(Protocol):
    """A plan that a loader can serve: `steps` steps an epoch, each of at most `rows` rows."""

    @property
    def rows(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def step(self, index: int) -> list[list[int]]:
        """A list of numbers per row, for `build`, of a step counted from the start of the run."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """Batches of a plan. `build(rows, count)` makes `count` rows of numpy arrays from rows of example numbers.

    noise(batch, step, row numbers), if given, changes a built batch, in the same way each time the step is built.
    """

    plan: Steps
    build: Callable[[list[list[int]], int], Any]
    noise: Callable[[Any, int, Sequence[int]], Any] | None = None

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Any:
        """The batch of a step, or only these rows of it (numpy arrays)."""
        planned = self.plan.step(step)
        wanted = range(self.plan.rows) if rows is None else rows
        batch = self.build([planned[r] if r < len(planned) else [] for r in wanted], len(wanted))
        return batch if self.noise is None else self.noise(batch, step, wanted)

    def fingerprint(self) -> str:
        """A hash of three rows of the first epoch: it depends on the examples and their order, not on the mesh.

        Only integers are hashed: log-probabilities of a reference model may differ by rounding.
        """
        state = hashlib.sha256(str(self.plan.steps).encode())
        for step in sorted({0, self.plan.steps // 2, self.plan.steps - 1}):
            for x in _leaves(self.build(self.plan.step(step)[:1], 1)):
                if np.issubdtype(x.dtype, np.integer):
                    state.update(str(x.shape).encode() + np.ascontiguousarray(x).tobytes())
        return state.hexdigest()[:16]

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Any]:
        """Batches of the steps from `start` to before `stop`, made ahead on a thread; starting late costs nothing."""
        ahead, pool = deque[Future[Any]](), ThreadPoolExecutor(1, "batches")
        try:
            for step in range(start, stop):
                ahead.append(pool.submit(self.batch, step, rows))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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
    """A loader of plain examples, packed by `collate`."""
    typed = bool(len(examples)) and examples[0].types is not None

    def build(rows: list[list[int]], count: int) -> Batch:
        return collate([[examples[i] for i in row] for row in rows], plan.row_length, count, typed=typed)

    return Loader(plan, build, noise)


def token_dropout(
    rate: float, unknown: int, special: Sequence[int], seed: int
) -> Callable[[Any, int, Sequence[int]], Any]:
    """Noise that replaces a share `rate` of the tokens by `unknown`, so that a model learns from their context.

    Padding and `special` tokens are kept. Each row of each step has its own random generator.
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
    """Every example once, in fixed batches: iterating gives (Batch, the location of each example in it)."""

    examples: Sequence[Example]
    plan: Plan

    def __iter__(self) -> Iterator[tuple[Batch, list[Location]]]:
        batches = loader(self.examples, self.plan)
        for step in range(self.plan.steps):
            yield batches.batch(step), locate(self.plan.step(step), self.plan.lengths)

    def __len__(self) -> int:
        return self.plan.steps


def lengths(examples: Sequence[Example]) -> np.ndarray:
    """The number of tokens of each example, int64."""
    return np.fromiter((len(example.tokens) for example in examples), np.int64, len(examples))
