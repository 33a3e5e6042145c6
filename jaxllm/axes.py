"""The axes of a mesh, and helpers that shard arrays along them inside a traced function."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor", "context", "expert")
"""Replicas; parameters and rows; heads, MLP columns, vocabulary; positions of a row; experts."""

ROWS = P(("data", "fsdp"))
"""The sharding of the rows of a batch, arrays [B]."""

TOKENS = P(("data", "fsdp"), "context")
"""The sharding of arrays [B, T]."""


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
    wanted = (*TOKENS, *rest, *(None,) * (x_BT.ndim - len(TOKENS) - len(rest)))
    spec = []
    for size, axes in zip(x_BT.shape, wanted, strict=True):
        names = tuple(axis for axis in (axes if isinstance(axes, tuple) else (axes,)) if axis and cuts(axis) > 1)
        spec.append(names if names and size % math.prod(map(cuts, names)) == 0 else None)
    return jax.lax.with_sharding_constraint(x_BT, P(*spec)) if any(spec) else x_BT


def cut_evenly(x: jax.Array, spec: P | None) -> jax.Array:
    """x with each axis that the mesh does not divide padded with zeros, and sharded; x itself without such an axis."""
    parts = [cuts(axis) for axis in spec or ()]
    padding = [(0, -size % n) for size, n in zip(x.shape, parts, strict=False)]
    return jax.lax.with_sharding_constraint(jnp.pad(x, padding), spec) if any(after for _, after in padding) else x
