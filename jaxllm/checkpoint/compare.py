"""Compares the checkpoints and logs of two runs, to see whether an interrupted run equals an uninterrupted one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.checkpoint.store import newest_sound, reading
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import TrainState

COUNTERS = ("position", "step", "seed", "data", "random", "tokens")
"""Meta data that must be equal on every mesh: the position in the data, a hash of the data, the number of updates, and
the random number that the next step starts from."""
SUMS = ("sums", "spikes")
"""Meta data that may differ between meshes as losses do."""
TIMING = ("tokens_per_s", "tflops_per_device", "mfu")
"""Logged numbers that are not compared."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A checkpoint of a run, on the host."""

    arrays: Mapping[str, np.ndarray]
    """By item and name, such as params/embed.kernel."""
    meta: Mapping[str, Any]

    @property
    def position(self) -> int:
        """How many batches the run had consumed."""
        return int(self.meta["position"])


def read(run: str | Path, position: int | None = None) -> Snapshot:
    """A checkpoint of a run folder, by default its newest sound one. Raises InputError if there is none."""
    position = newest_sound(run) if position is None else position
    with reading(Path(run) / "checkpoints") as checkpoints:
        state, meta = checkpoints.restore(position, like(checkpoints.meta(position)))
    items = {"params": state.params, "opt_state": state.opt_state}
    arrays = {f"{item}/{name}": np.asarray(x) for item, named in items.items() for name, x in named.items()}
    return Snapshot(arrays, meta)


def like(meta: Mapping[str, Any]) -> TrainState:
    """The shapes and dtypes of the arrays that this meta data describes, each on the first device of this process."""
    at = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(text: str) -> jax.ShapeDtypeStruct:
        dtype, _, sizes = text.removesuffix("]").partition("[")
        numbers = tuple(int(n) for n in sizes.split(",") if n.strip())
        return jax.ShapeDtypeStruct(numbers, jnp.dtype(dtype), sharding=at)

    items = {item: {name: shape(text) for name, text in named.items()} for item, named in meta["arrays"].items()}
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=at)
    return TrainState(step, items["params"], items["opt_state"])  # type: ignore[arg-type]


def differences(there: Snapshot, here: Snapshot, tolerance: float = 0.0) -> list[str]:
    """One line for each difference between two snapshots, the largest in arrays first; empty if they are equal.

    tolerance: 0 compares bit by bit. Otherwise arrays may differ by it times their largest number (at least 1), and
    sums of losses by it times themselves. Counters must always be equal.
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
        (x, shape), (y, other) = (jax.tree.flatten(one.meta.get(name)) for one in (there, here))
        if str(shape) != str(other) or not all(_is_close(p, q, tolerance) for p, q in zip(x, y, strict=True)):
            found.append(f"{name} is {there.meta.get(name)} and {here.meta.get(name)}")
    return found


def log_differences(there: str | Path, here: str | Path, tolerance: float = 0.0, after: int = 0) -> list[str]:
    """One line for each difference between the numbers, except timing, that two run folders logged after a position."""
    logs = [[line for line in read_jsonl(Path(run) / "metrics.jsonl") if line["step"] > after] for run in (there, here)]
    if len(logs[0]) != len(logs[1]):
        return [f"metrics.jsonl has {len(logs[0])} and {len(logs[1])} lines after step {after}"]
    found = []
    for x, y in zip(*logs, strict=True):
        if x["step"] != y["step"] or x.keys() != y.keys():
            found.append(f"metrics.jsonl has {sorted(x)} at {x['step']} and {sorted(y)} at {y['step']}")
            continue
        for name in x.keys() - {*TIMING}:
            if not _is_close(x[name], y[name], tolerance):
                found.append(f"step {x['step']}: {name} is {x[name]} and {y[name]}")
    return found


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The largest difference of two arrays of one shape, relative to their largest number (at least 1)."""
    if not x.size:
        return 0.0
    wide = [np.asarray(one, np.float64) for one in (x, y)]
    with np.errstate(invalid="ignore"):
        far = np.abs(wide[0] - wide[1])
    far = np.where((wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1])), 0.0, far)
    worst = float(np.max(np.where(np.isnan(far), np.inf, far)))
    largest = max((float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0)) for one in wide), default=0.0)
    return worst / max(1.0, largest)


def _is_close(x: Any, y: Any, tolerance: float) -> bool:
    if x == y or (x != x and y != y):  # or both are nan
        return True
    if not (isinstance(x, int | float) and isinstance(y, int | float)):
        return False
    return bool(abs(x - y) <= tolerance * max(1.0, abs(x), abs(y)))
