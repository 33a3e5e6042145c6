"""The axes of a mesh, and helpers that shard arrays along them inside a traced function."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxllm import planning

AXES = ("data", "fsdp", "tensor", "context", "expert")
"""Replicas; parameters and rows; heads, MLP columns, vocabulary; positions of a row; experts."""

ROWS = P(("data", "fsdp"))
"""The sharding of the rows of a batch, arrays [B]."""

TOKENS = P(("data", "fsdp"), "context")
"""The sharding of arrays [B, T]."""

RESIDUAL = P(("data", "fsdp"), ("context", "tensor"))
"""The sharding of the residual stream [B, T, D] between the matrix products of a model."""


def cuts(axis: str) -> int:
    """The size of an axis of the mesh that is set; 1 without a mesh, and inside `shard_map` and `pmap`.

    There an array is one device's part already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.are_all_axes_manual else mesh.shape.get(axis, 1)


def over_devices(x: jax.Array) -> jax.Array:
    """The sum of x over devices inside `pmap` and `shard_map`; elsewhere x, which is global already."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.psum(x, mesh.axis_names) if not mesh.empty and mesh.are_all_axes_manual else x


def cut_as_batch(x_BT: jax.Array, *rest: str | None) -> jax.Array:
    """x [B, T, ...] with rows and sequence sharded as the batch is, its other axes along `rest` or not at all.

    Parameters are sharded over fsdp too. Without this the compiler may shard an activation as the parameter it was
    computed from, and every device then computes all rows.
    """
    return _cut(x_BT, (*TOKENS, *rest))


def cut_as_residual(x_BTD: jax.Array) -> jax.Array:
    """The residual stream between matrix products, [B, T, D]: as the batch is sharded, the sequence over tensor too.

    So each device holds, normalises and saves for the backward pass its own positions alone (sequence parallelism,
    Korthikanti et al. 2022, section 4.2.2). Where the mesh does not divide the sequence, as in generation, it is
    `cut_as_batch`, and so it is without a tensor axis.
    """
    return _cut(x_BTD, residual(x_BTD))


def residual(x_BTD: jax.Array) -> P:
    """RESIDUAL where the mesh divides the sequence, else TOKENS."""
    return RESIDUAL if x_BTD.shape[1] % (cuts("context") * cuts("tensor")) == 0 else TOKENS


def cut_as_cache(x: jax.Array) -> jax.Array:
    """Keys [..., B, K, H, S] or values [..., B, K, S, H]: rows sharded as those of the batch, heads over tensor."""
    return _cut(x, (*(None,) * (x.ndim - 4), ("data", "fsdp"), "tensor"))


def look_up(table_ND: jax.Array, ids_BT: jax.Array, features: tuple[str, ...]) -> jax.Array:
    """The rows of a table whose features lie along these axes, for ids that are sharded as the batch -> [B, T, D].

    A device looks its features up for all rows along fsdp, and exchanges them for all features of its own rows. Unless
    each of these shardings is stated, the partitioner goes from one to the other through a copy of the whole array on
    every device, which it calls an involuntary full rematerialization.
    """
    if cuts("fsdp") == 1:
        return table_ND[ids_BT]
    ids_BT = _cut(ids_BT, ("data", "context"), whole=True)
    if planning.platform() == "tpu":  # or its copy in the layout of a lookup is kept for the optimizer, which it suits
        table_ND = jax.lax.optimization_barrier(table_ND)
    looked_up = _cut(table_ND[ids_BT], ("data", "context", features))
    return _cut(looked_up, (*TOKENS, tuple(axis for axis in features if axis != "fsdp")))


@jax.custom_vjp
def gather(x_BTD: jax.Array) -> jax.Array:
    """The residual stream as `cut_as_batch`, which a matrix product over tensor reads; its gradient is scattered.

    The identity without a tensor axis. Gathering and the `scatter` of the product's result send as many bytes as the
    sum over devices that they replace.
    """
    return cut_as_batch(x_BTD) if cuts("tensor") > 1 else x_BTD


@jax.custom_vjp
def scatter(x_BTD: jax.Array) -> jax.Array:
    """A result of a matrix product over tensor as `cut_as_residual`; its gradient is gathered. See `gather`."""
    if cuts("tensor") == 1:
        return x_BTD
    # XLA:TPU would make a ring of each product, which holds and passes on sums for each kernel, the first of zeros.
    return cut_as_residual(cut_as_batch(x_BTD) if planning.platform() == "tpu" else x_BTD)


gather.defvjp(lambda x_BTD: (gather(x_BTD), None), lambda _, dx_BTD: (scatter(dx_BTD),))
scatter.defvjp(lambda x_BTD: (scatter(x_BTD), None), lambda _, dx_BTD: (gather(dx_BTD),))


def _cut(x: jax.Array, wanted: Iterable[Any], whole: bool = False) -> jax.Array:
    """x with its first axes sharded along the axes of the mesh that are wanted, where the mesh has them and divides.

    whole: where it has none of them, x whole on every device; otherwise it is as the compiler likes.
    """
    spec = spec_of(x, wanted)
    return jax.lax.with_sharding_constraint(x, spec) if any(spec) or whole else x


def spec_of(x: jax.Array, wanted: Iterable[Any]) -> P:
    """The sharding of x with its first axes along those that are wanted, where the mesh has them and divides."""
    spec: list[Any] = []
    for size, axes in zip(x.shape, wanted, strict=False):
        names = tuple(axis for axis in (axes if isinstance(axes, tuple) else (axes,)) if axis and cuts(axis) > 1)
        spec.append(names if names and size % math.prod(map(cuts, names)) == 0 else None)
    return P(*spec, *[None] * (x.ndim - len(spec)))


def axes_of(spec: P) -> tuple[str, ...]:
    """The axes of the mesh that a sharding names, in its order."""
    return tuple(axis for names in spec if names for axis in (names if isinstance(names, tuple) else (names,)))


def cut_evenly(x: jax.Array, spec: P | None) -> jax.Array:
    """x with each axis that the mesh does not divide padded with zeros, and sharded; x itself without such an axis."""
    parts = [cuts(axis) for axis in spec or ()]
    padding = [(0, -size % n) for size, n in zip(x.shape, parts, strict=False)]
    return jax.lax.with_sharding_constraint(jnp.pad(x, padding), spec) if any(after for _, after in padding) else x
