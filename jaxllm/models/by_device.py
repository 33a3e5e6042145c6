"""Attention cut along the mesh that is set: each device computes its own rows and heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxllm.axes import ROWS, cuts
from jaxllm.models.visibility import Tokens

Heads = tuple[jax.Array, jax.Array, jax.Array]


def by_device(
    run: Callable[..., jax.Array],
    heads: Heads,
    tokens: tuple[Tokens, Tokens],
    window: jax.Array | None,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """run(q_BTNH, k_BSKH, v_BSKH, query, key, window, dropout_key) -> [B, T, N, H], on each device for its own part.

    Rows are cut over data and fsdp, heads over tensor where it divides the key heads; each part has a dropout key of
    its own. Without a mesh, inside `shard_map` and `pmap`, and where the mesh does not divide the rows, `run` gets all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(map(cuts, ROWS[0]))
    if mesh.empty or mesh.are_all_axes_manual or mesh.size == 1 or heads[0].shape[0] % shards:
        return run(*heads, *tokens, window, dropout_key)
    over = "tensor" if heads[1].shape[2] % cuts("tensor") == 0 else None

    def run_here(q: jax.Array, k: jax.Array, v: jax.Array, query: Tokens, key: Tokens, window: Any, drops: Any) -> Any:
        if drops is not None:
            for axis in (*ROWS[0], "tensor"):
                drops = jax.random.fold_in(drops, jax.lax.axis_index(axis))
        return run(q, k, v, query, key, window, drops)

    whole, part, rows = jax.P(), jax.P(ROWS[0], None, over, None), jax.P(ROWS[0])
    specs = part, part, part, rows, rows, whole, whole
    return jax.shard_map(run_here, in_specs=specs, out_specs=part, check_vma=False)(
        *heads, *tokens, window, dropout_key
    )
