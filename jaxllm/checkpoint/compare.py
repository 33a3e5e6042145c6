"""All that a checkpoint holds, on the host, and in what two of them differ: whether a run went on as if never cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError, TrainState

COUNTERS = ("position", "step", "seed", "data", "random", "tokens")
"""Must be equal on every mesh: where the run is in its data and which data that is, its updates, the random number
that the next step begins with."""
SUMS = ("sums", "spikes")
"""Of losses: may differ between meshes as losses do."""
TIMING = ("tokens_per_s", "mfu")
"""What two runs do not share."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A checkpoint of a run."""

    arrays: Mapping[str, np.ndarray]
    """By item and name: params/embed.kernel."""
    meta: Mapping[str, Any]

    @property
    def position(self) -> int:
        """Batches consumed."""
        return int(self.meta["position"])


def read(run: str | Path, position: int | None = None) -> Snapshot:
    """A checkpoint of a run folder, by default its newest sound one. Raises InputError if there is none."""
    folder = epath.Path(run) / "checkpoints"
    if not folder.exists():
        raise InputError(f"{run} holds no checkpoint")
    checkpoints = Checkpoints(folder, write=False)
    try:
        position = checkpoints.sound() if position is None else position
        if position is None:
            raise InputError(f"{run} holds no checkpoint")
        state, meta = checkpoints.restore(position, like(checkpoints.meta(position)))
    finally:
        checkpoints.close()
    items = {"params": state.params, "opt_state": state.opt_state}
    arrays = {f"{item}/{name}": np.asarray(x) for item, named in items.items() for name, x in named.items()}
    return Snapshot(arrays, meta)


def like(meta: Mapping[str, Any]) -> TrainState:
    """The shapes of what a checkpoint of this meta data holds, each on the first device of this process."""
    at = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(text: str) -> jax.ShapeDtypeStruct:
        dtype, _, sizes = text.removesuffix("]").partition("[")
        numbers = tuple(int(n) for n in sizes.split(",") if n.strip())
        return jax.ShapeDtypeStruct(numbers, jnp.dtype(dtype), sharding=at)

    items = {item: {name: shape(text) for name, text in named.items()} for item, named in meta["arrays"].items()}
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=at)
    return TrainState(step, items["params"], items["opt_state"])  # type: ignore[arg-type]


def differences(there: Snapshot, here: Snapshot, tolerance: float = 0.0) -> list[str]:
    """What two snapshots do not share, a line each, the arrays that differ most first; empty if they are the same.

    tolerance: 0 for bit by bit; else arrays may differ by so much, or by so many times their largest number where that
    is above 1, and sums of losses by so much of themselves. Counters are always equal.
    """
    a, b = there.arrays, here.arrays
    found = [f"{name} is in one alone" for name in sorted(a.keys() ^ b.keys())]
    worst = []
    for name in a.keys() & b.keys():
        if (a[name].shape, a[name].dtype) != (b[name].shape, b[name].dtype):
            found.append(f"{name} is {a[name].dtype}{[*a[name].shape]} and {b[name].dtype}{[*b[name].shape]}")
        elif a[name].tobytes() != b[name].tobytes() and (far := distance(a[name], b[name])) >= tolerance:
            worst.append((far, f"{name} differs by up to {far:.2e}"))
    found += [text for _, text in sorted(worst, reverse=True)]
    for name in COUNTERS:
        if there.meta.get(name) != here.meta.get(name):
            found.append(f"{name} is {there.meta.get(name)} and {here.meta.get(name)}")
    for name in SUMS:
        x, y = (list(_numbers(one.meta.get(name))) for one in (there, here))
        if len(x) != len(y) or not all(_near(p, q, tolerance) for p, q in zip(x, y, strict=True)):
            found.append(f"{name} is {there.meta.get(name)} and {here.meta.get(name)}")
    return found


def log_differences(there: str | Path, here: str | Path, tolerance: float = 0.0, after: int = 0) -> list[str]:
    """The same for the numbers that two run folders logged after a position, but for those of time."""
    logs = [[line for line in read_jsonl(Path(run) / "metrics.jsonl") if line["step"] > after] for run in (there, here)]
    if len(logs[0]) != len(logs[1]):
        return [f"metrics.jsonl has {len(logs[0])} and {len(logs[1])} lines after step {after}"]
    found = []
    for x, y in zip(*logs, strict=True):
        if x["step"] != y["step"] or x.keys() != y.keys():
            found.append(f"metrics.jsonl has {sorted(x)} at {x['step']} and {sorted(y)} at {y['step']}")
            continue
        for name in x.keys() - {*TIMING}:
            if not _near(x[name], y[name], tolerance):
                found.append(f"step {x['step']}: {name} is {x[name]} and {y[name]}")
    return found


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The largest difference of two arrays of one shape, in units of their largest number where that is above 1."""
    if not x.size:
        return 0.0
    wide = [np.asarray(one, np.float64) for one in (x, y)]
    with np.errstate(invalid="ignore"):
        far = np.abs(wide[0] - wide[1])
    far = np.where((wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1])), 0.0, far)
    worst = float(np.max(np.where(np.isnan(far), np.inf, far)))
    largest = max((float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0)) for one in wide), default=0.0)
    return worst / max(1.0, largest)


def _near(x: Any, y: Any, tolerance: float) -> bool:
    if x == y or (x != x and y != y):  # or both are nan
        return True
    if not (isinstance(x, int | float) and isinstance(y, int | float)):
        return False
    return bool(abs(x - y) <= tolerance * max(1.0, abs(x), abs(y)))


def _numbers(tree: Any) -> Iterator[Any]:
    """The numbers of nested lists and dictionaries, in an order of their own."""
    if isinstance(tree, Mapping):
        for name in sorted(tree):
            yield name
            yield from _numbers(tree[name])
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from _numbers(one)
    elif tree is not None:
        yield tree
