"""Meshes of devices, and the sharding of parameters, optimizer state and batches on them.

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
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm import planning
from jaxllm.axes import AXES, ROWS, TOKENS
from jaxllm.distributed.topology import grid, parse_mesh, slices_of
from jaxllm.params import Limits, Rules
from jaxllm.types import InputError


def make_mesh(text: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices from text such as "data=2,fsdp=4"; axes left out are 1, one may be -1 (the rest).

    Empty text puts every device on data. Over several slices an axis goes as "data=2x4", two over slices times four
    within one; where no axis does, data or fsdp. Raises InputError where the product is not the number of devices.
    """
    if devices is None:
        plan = planning.current()
        devices = plan.devices if plan else jax.devices()
    shape = parse_mesh(text, len(devices), len(slices_of(devices)), cpu=devices[0].platform == "cpu")
    return Mesh(grid(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def row_multiple(mesh: Mesh) -> int:
    """The number that the rows of a batch must be a multiple of."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def specs_of(name: str, rules: Rules) -> list[P]:
    """The specs of the rules that match the whole name. Raises KeyError if there is none."""
    if found := [spec for regex, spec in rules if re.fullmatch(regex, name)]:
        return found
    raise KeyError(f"no sharding rule for parameter {name}: add one to the model's SHARDING")


def shardings(
    tree: Any, mesh: Mesh | AbstractMesh, rules: Rules, params: Mapping[str, Any] | None = None, limits: Limits = ()
) -> Any:
    """A NamedSharding for every leaf of parameters, or of an optimizer's state, given as arrays or shapes.

    In a flat dictionary of parameters each takes the spec of its first rule that the mesh divides. In an optimizer's
    state a leaf below a parameter's name takes that spec if it has the parameter's shape, the spec less the reduced
    axis if it is factored, what the mesh divides of it if it has a number for each block of a last axis, and anything
    else is replicated. params: the parameters' shapes, which tell what is
    factored; by default the largest leaf of a name has them. limits: what else an axis must divide. Raises InputError
    that lists every axis that does not divide what it shards, and what it could be.
    """
    wants: dict[str, Want] = {f"{n} {what}": [[(n, (axis,), f"{n} {what}")]] for axis, what, n in limits}
    if params is None:
        leaves = sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda leaf: (leaf[1].ndim, leaf[1].size))
        params = {_name(path): x for path, x in leaves}

    def place(path: Any, x: Any) -> NamedSharding:
        name = _name(path)
        if name not in params or (len(path) > 1 and not any(re.fullmatch(regex, name) for regex, _ in rules)):
            return replicated(mesh)
        shape, specs = tuple(params[name].shape), specs_of(name, rules)
        asked = wants.setdefault(name, [_cuts(name, shape, spec) for spec in specs])
        fits = (spec for spec, cuts in zip(specs, asked, strict=True) if all(_divided(cut, mesh.shape) for cut in cuts))
        return NamedSharding(mesh, _spec_of_leaf(next(fits, specs[0]), shape, tuple(x.shape), mesh.shape))

    placed = jax.tree_util.tree_map_with_path(place, tree)
    _check(list(wants.values()), mesh.shape)
    return placed


Cut = tuple[int, tuple[str, ...], str]
"""(a size, the mesh axes whose product must divide it, what it is the size of)."""

Want = list[list[Cut]]
"""Alternative lists of cuts, of which one must be possible."""


def _cuts(name: str, shape: tuple[int, ...], spec: P) -> list[Cut]:
    axes = [(size, axis if isinstance(axis, tuple) else (axis,)) for size, axis in zip(shape, spec) if axis]  # noqa: B905
    return [(size, cut, f"{name} {shape}: {size}") for size, cut in axes]


def _divided(cut: Cut, sizes: Mapping[str, int]) -> bool:
    return cut[0] % math.prod(sizes[axis] for axis in cut[1]) == 0


def _check(wants: Sequence[Want], sizes: Mapping[str, int]) -> None:
    """Raises InputError, in one line, where no alternative divides."""

    def met(want: Want, sizes: Mapping[str, int]) -> bool:
        return any(all(_divided(cut, sizes) for cut in cuts) for cuts in want)

    wrong = [cut for want in wants if not met(want, sizes) for cut in want[0] if not _divided(cut, sizes)]
    if not wrong:
        return
    problems = {f"{text} over {_product(axes)}={math.prod(sizes[a] for a in axes)}" for _, axes, text in wrong}
    devices = math.prod(sizes.values())
    better = []
    for axis in dict.fromkeys(axis for _, axes, _ in wrong for axis in axes if sizes[axis] > 1):
        concerned = [want for want in wants if any(axis in axes for cuts in want for _, axes, _ in cuts)]
        fit = [n for n in range(1, devices + 1) if all(met(want, {**sizes, axis: n}) for want in concerned)]
        if fit:
            better.append(f"{axis} could be {', '.join(map(str, fit))}")
    raise InputError("the mesh does not divide the model: " + "; ".join([*sorted(problems), *better]))


def _product(axes: tuple[str, ...]) -> str:
    return axes[0] if len(axes) == 1 else str(axes)


def _name(path: Any) -> str:
    """The name of the parameter that a leaf belongs to: the last string on its path, else empty."""
    return next((key.key for key in reversed(path) if isinstance(getattr(key, "key", None), str)), "")


def _spec_of_leaf(spec: P, whole: tuple[int, ...], part: tuple[int, ...], sizes: Mapping[str, int]) -> P:
    """The spec of an array of shape `part` that belongs to a parameter of shape `whole`."""
    if len(spec) > len(whole):  # a factored leaf, taken for the largest
        return P()
    if part == whole:
        return spec
    axes = (*spec, *(None,) * (len(whole) - len(spec)))
    if part and part[:-1] == whole[:-1]:
        return P(*axes[:-1], axes[-1] if all(_divided(cut, sizes) for cut in _cuts("", part, spec)) else None)
    less = {axes[:i] + axes[i + 1 :] for i in range(len(whole)) if whole[:i] + whole[i + 1 :] == part}
    return P(*less.pop()) if len(less) == 1 else P()


def put_batch(batch: Any, mesh: Mesh, rows: int, local: Sequence[int] | None = None) -> Any:
    """Numpy rows as global arrays, sharded over the mesh by rows, and arrays whose names end in _BT by sequence too.

    rows: how many the whole batch has. local: those that `batch` holds, by default all (see `local_rows`). A sequence
    that the context axis does not divide is padded with zeros, which mean padding in a batch.
    """
    offset = {r: i for i, r in enumerate(range(rows) if local is None else local)}
    context = mesh.shape["context"]

    def put(path: Any, x: np.ndarray) -> jax.Array:
        spec = ROWS
        if context > 1 and path and str(getattr(path[-1], "name", "")).endswith("_BT"):
            spec, x = TOKENS, np.pad(x, ((0, 0), (0, -x.shape[1] % context)))
        piece = lambda index: x[[offset[r] for r in range(rows)[index[0]]]][(slice(None), *index[1:])]  # noqa: E731
        return jax.make_array_from_callback((rows, *x.shape[1:]), NamedSharding(mesh, spec), piece)

    return jax.tree_util.tree_map_with_path(put, batch)


def local_rows(mesh: Mesh, rows: int) -> list[int]:
    """The rows of a batch that this process's devices hold."""
    index = NamedSharding(mesh, ROWS).addressable_devices_indices_map((rows,))
    return sorted({r for (part,) in filter(None, index.values()) for r in range(rows)[part]})
