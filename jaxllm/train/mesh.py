"""Meshes, and which part of an array lives where.

Axes: data (replicas), fsdp (parameters and batch), tensor (heads, MLP columns, vocabulary), context (sequence), expert.
All are Auto: the compiler propagates shardings from the arguments of the step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm.params import Rules
from jaxllm.types import InputError

AXES = ("data", "fsdp", "tensor", "context", "expert")
ROWS = P(("data", "fsdp"))
"""How the rows of a batch are sharded."""


def make_mesh(text: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices from text such as "data=2,fsdp=4"; axes left out are 1, one may be -1 (the rest).

    Empty text puts every device on data. Raises InputError where the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes, given = dict.fromkeys(AXES, 1), set()
    for part in filter(None, text.replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        if axis not in AXES or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise InputError(f"--mesh {text}: {part!r} is not AXIS=SIZE with one of the axes {', '.join(AXES)}")
        if axis in given:
            raise InputError(f"--mesh {text}: {axis} is given twice")
        given.add(axis)
        sizes[axis] = int(size)
    if not text:
        sizes["data"] = -1
    if -1 in sizes.values():
        rest = -math.prod(sizes.values())
        if list(sizes.values()).count(-1) > 1 or len(devices) % rest:
            raise InputError(f"--mesh {text}: {len(devices)} devices leave nothing whole for -1")
        sizes = {axis: len(devices) // rest if size == -1 else size for axis, size in sizes.items()}
    if (wanted := math.prod(sizes.values())) != len(devices):
        raise InputError(
            f"--mesh {text} wants {wanted} devices, there are {len(devices)}: "
            f"make the sizes multiply to {len(devices)}, or let one be -1"
        )
    if devices[0].platform == "cpu":
        grid = np.asarray(devices).reshape(tuple(sizes.values()))
        return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def row_multiple(mesh: Mesh) -> int:
    """What the number of rows in a batch must divide by."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def spec_of(name: str, rules: Rules) -> P:
    """The spec of the first rule that matches the whole name. There is no catch-all: KeyError without one."""
    for regex, spec in rules:
        if re.fullmatch(regex, name):
            return spec
    raise KeyError(f"no sharding rule for parameter {name}: add one to the model's SHARDING")


def shardings(tree: Any, mesh: Mesh, rules: Rules, params: Mapping[str, Any] | None = None) -> Any:
    """A NamedSharding for every leaf of parameters, or of an optimizer's state, given as arrays or shapes.

    In a flat dictionary of parameters each takes its rule's spec. In an optimizer's state a leaf below a parameter's
    name takes that spec if it has the parameter's shape, the spec less the reduced axis if it is factored, and anything
    else is replicated. params: the parameters' shapes, which tell what is factored; by default the largest leaf of a
    name has them. Raises InputError that lists every axis that does not divide what it shards.
    """
    problems: dict[str, str] = {}
    if params is None:
        leaves = sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda leaf: (leaf[1].ndim, leaf[1].size))
        params = {_name(path): x for path, x in leaves}

    def place(path: Any, x: Any) -> NamedSharding:
        name = _name(path)
        if name not in params or (len(path) > 1 and not any(re.fullmatch(regex, name) for regex, _ in rules)):
            return replicated(mesh)
        spec = _narrowed(spec_of(name, rules), tuple(params[name].shape), tuple(x.shape))
        for size, axis in zip(x.shape, spec, strict=False):
            over = math.prod(mesh.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,)) if a)
            if size % over:
                problems[name] = f"{name} {tuple(x.shape)}: {size} over {axis}={over}"
        return NamedSharding(mesh, spec)

    placed = jax.tree_util.tree_map_with_path(place, tree)
    if problems:
        raise InputError("the mesh does not divide the model: " + "; ".join(problems.values()))
    return placed


def _name(path: Any) -> str:
    """The parameter that a leaf belongs to: the last string on its path, empty where there is none."""
    return next((key.key for key in reversed(path) if isinstance(getattr(key, "key", None), str)), "")


def _narrowed(spec: P, whole: tuple[int, ...], part: tuple[int, ...]) -> P:
    """The spec of an array of shape `part` that belongs to a parameter of shape `whole`."""
    if len(spec) > len(whole):  # a factored leaf, taken for the largest
        return P()
    if part == whole:
        return spec
    axes = (*spec, *(None,) * (len(whole) - len(spec)))
    less = {axes[:i] + axes[i + 1 :] for i in range(len(whole)) if whole[:i] + whole[i + 1 :] == part}
    return P(*less.pop()) if len(less) == 1 else P()


def put_batch(batch: Any, mesh: Mesh, rows: int, local: Sequence[int] | None = None) -> Any:
    """Numpy rows as global arrays sharded over the mesh.

    rows: of the whole batch. local: which of them `batch` holds, where it does not hold all (see `local_rows`).
    """

    def put(x: np.ndarray) -> jax.Array:
        offset = {r: i for i, r in enumerate(range(rows) if local is None else local)}
        piece = lambda index: x[[offset[r] for r in range(rows)[index[0]]]][(slice(None), *index[1:])]  # noqa: E731
        return jax.make_array_from_callback((rows, *x.shape[1:]), NamedSharding(mesh, ROWS), piece)

    return jax.tree.map(put, batch)


def local_rows(mesh: Mesh, rows: int) -> list[int]:
    """The rows of a batch that this process's devices hold."""
    index = NamedSharding(mesh, ROWS).addressable_devices_indices_map((rows,))
    return sorted({r for (part,) in filter(None, index.values()) for r in range(rows)[part]})


def bytes_per_device(tree: Any) -> Mapping[jax.Device, int]:
    """Bytes that the arrays of a tree take on each device of this process."""
    held: dict[jax.Device, int] = {}
    for x in jax.tree.leaves(tree):
        for shard in x.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held
