"""The axes of a mesh, by name, and how a step that is being traced is cut along them."""

from __future__ import annotations

import jax
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
