"""The attention mask of packed rows, from the segments, positions and branches of their tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxllm.types import Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """What the mask depends on, int32 per token: segment (0: padding), position in it, branch (None: no branches)."""

    segments_BT: jax.Array
    positions_BT: jax.Array
    branches_BT: jax.Array | None = None

    @classmethod
    def of(cls, batch: Batch) -> Tokens:
        return cls(batch.segments_BT, batch.positions_BT, batch.branches_BT)


def visible(query: Tokens, key: Tokens, *, causal: bool, window: jax.Array | None = None) -> jax.Array:
    """Which keys a query sees, bool [B, T, S].

    A key is visible if it is not padding and in the same segment; if causal, not at a later position; in branch 0 or
    the query's branch; and at most `window` positions away (int32 scalar).
    """
    seen = (query.segments_BT[:, :, None] == key.segments_BT[:, None, :]) & (key.segments_BT > 0)[:, None, :]
    distance = query.positions_BT[:, :, None] - key.positions_BT[:, None, :]
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= jnp.abs(distance) <= window
    if query.branches_BT is not None and key.branches_BT is not None:
        branch = key.branches_BT[:, None, :]
        seen &= (branch == 0) | (branch == query.branches_BT[:, :, None])
    return seen
