"""The axes of a mesh, by name, and how a step that is being traced is cut along them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor", "context", "expert")
"""Replicas; parameters and rows; heads, MLP columns, vocabulary; positions of a row; experts."""

ROWS = P(("data", "fsdp"))
"""How the rows of a batch are sharded."""

TOKENS = P(("data", "fsdp"), "context")
"""How arrays of [B, T] are."""


def cuts(axis: str) -> int:
    """Into how many parts the mesh that is set cuts along an axis: 1 without one, and where the cut is made already.

    Inside `shard_map` and `pmap` an array is one device's part.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.are_all_axes_manual else mesh.shape.get(axis, 1)


def over_devices(x: jax.Array) -> jax.Array:
    """The sum of x over devices where each has its own, inside `pmap`; elsewhere an array is of all of them already."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.psum(x, mesh.axis_names) if not mesh.empty and mesh.are_all_axes_manual else x


def cut_as_batch(x_BT: jax.Array, *rest: str | None) -> jax.Array:
    """x [B, T, ...] with rows and sequence where those of the batch are; its other axes along `rest`, or whole.

    Parameters are cut over fsdp too. Without this the compiler may leave an activation cut as the parameter it was
    computed from, and every device then has the rows of all.
    """
    wanted = (*TOKENS, *rest, *(None,) * (x_BT.ndim - len(TOKENS) - len(rest)))
    spec = []
    for size, axes in zip(x_BT.shape, wanted, strict=True):
        names = tuple(axis for axis in (axes if isinstance(axes, tuple) else (axes,)) if axis and cuts(axis) > 1)
        spec.append(names if names and size % math.prod(map(cuts, names)) == 0 else None)
    return jax.lax.with_sharding_constraint(x_BT, P(*spec)) if any(spec) else x_BT


def cut_evenly(x: jax.Array, spec: P | None) -> jax.Array:
    """x with zeros after each axis that the mesh does not divide, and cut so; x itself where there is no such axis."""
    parts = [cuts(axis) for axis in spec or ()]
    padding = [(0, -size % n) for size, n in zip(x.shape, parts, strict=False)]
    return jax.lax.with_sharding_constraint(jnp.pad(x, padding), spec) if any(after for _, after in padding) else x
