"""Ring attention over a sequence that is sharded over devices (Liu et al. 2023).

Each device keeps its queries. Blocks of keys and values pass from device to device, and the softmax is accumulated
online (`blockwise.py`). The backward pass sends the blocks round once more, with their gradients, so a device never
holds more than two devices' keys. A device's own part is cut into blocks again, and it holds the scores of one pair.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.blockwise import (
    Rule,
    Summed,
    add_keys,
    block_length,
    cut,
    cut_heads,
    delta_of,
    join_heads,
    pull_keys,
    together,
)
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.visibility import Tokens


def ring_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    tokens: Tokens,
    *,
    causal: bool,
    window: jax.Array | None,
    scale: float,
    softcap: float,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Self-attention with the arguments of `attention`, over the context axis of the mesh that is set -> [B, T, N, H].

    The axis must divide T. Rows stay sharded over data and fsdp, heads over tensor. Queries that see no key give 0.
    Dropout zeroes as many probabilities as on one device, but others.
    """
    mesh = jax.sharding.get_abstract_mesh()
    rule = Rule(causal, scale, softcap, 0.0 if dropout_key is None else dropout_rate)

    def run(
        q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: jax.Array | None, key: jax.Array | None
    ) -> jax.Array:
        block = min(q.shape[1], block_length())
        if key is not None:
            for axis in ("data", "fsdp", "tensor", "context"):
                key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        return join_heads(_ring(rule, *cut_heads(q, k, v, block), cut(tokens, block), window, key), q.shape)

    rows, heads = ("data", "fsdp"), "tensor" if k_BTKH.shape[2] % mesh.shape["tensor"] == 0 else None
    whole, part, per_token = jax.P(), jax.P(rows, "context", heads, None), jax.P(rows, "context")
    specs = (part, part, part, per_token, whole, whole)
    key = dropout_key if rule.dropout_rate else None
    return jax.shard_map(run, in_specs=specs, out_specs=part, check_vma=False)(
        q_BTNH, k_BTKH, v_BTKH, tokens, window, key
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: Any, key: Any) -> jax.Array:
    """[I, B, K, G, C, H] blocks of this device's queries against the keys of all -> the same shape."""
    return _forward(rule, q, k, v, tokens, window, key)[0]


def _forward(
    rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: Any, key: Any
) -> tuple[jax.Array, Any]:
    q, tokens, window = together((q, tokens, window))
    I = jnp.arange(len(q))  # noqa: E741

    def step(carry: Any, turn: jax.Array) -> tuple[Any, None]:
        summed, theirs = carry

        def of_queries(_: None, row: Any) -> tuple[None, Summed]:
            q_BKGTH, own, i, summed = row
            return None, add_keys(rule, q_BKGTH, own, theirs, window, _block_key(key, turn, i), summed)

        _, summed = jax.lax.scan(of_queries, None, (q, tokens, I, summed))
        return (summed, _pass_on(theirs)), None

    start = jax.vmap(Summed.of)(q), (k, v, tokens)
    (summed, _), _ = jax.lax.scan(step, start, jnp.arange(jax.lax.axis_size("context")))
    out, log_z = name(jax.vmap(lambda summed: summed.done(v.dtype))(summed), ATTENTION)
    return out, (q, k, v, tokens, window, key, out, log_z)


def _backward(rule: Rule, kept: Any, dout: jax.Array) -> tuple[Any, ...]:
    q, k, v, tokens, window, key, out, log_z = kept
    dout, tokens, window = together((dout, tokens, window))
    delta, I = jax.vmap(delta_of)(dout, out), jnp.arange(len(q))  # noqa: E741

    def step(carry: Any, turn: jax.Array) -> tuple[Any, None]:
        dq, (k, v, theirs, *totals) = carry

        def of_queries(totals: Any, row: Any) -> tuple[Any, jax.Array]:
            q_BKGTH, own, i, dq, dout_BKGTH, *terms = row
            pair, above = _block_key(key, turn, i), (dout_BKGTH, tuple(terms))
            dq, totals = pull_keys(rule, q_BKGTH, own, (k, v, theirs), window, pair, above, dq, totals)
            return totals, dq

        totals, dq = jax.lax.scan(of_queries, tuple(totals), (q, tokens, I, dq, dout, delta, log_z))
        return (dq, _pass_on((k, v, theirs, *totals))), None

    dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    start: Any = dq, (k, v, tokens, dk, dv)
    (dq, (_, _, _, dk, dv)), _ = jax.lax.scan(step, start, jnp.arange(jax.lax.axis_size("context")))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_ring.defvjp(_forward, _backward)


def _block_key(key: Any, turn: jax.Array, i: jax.Array) -> Any:
    """Of dropout on this device's i-th block of queries with the keys that it meets in this turn."""
    return None if key is None else jax.random.fold_in(jax.random.fold_in(key, turn), i)


def _pass_on(block: Any) -> Any:
    """Sends every device's block to the next device; after as many turns as devices it is back."""
    parts = jax.lax.axis_size("context")
    to = [(i, (i + 1) % parts) for i in range(parts)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, "context", to), block)
