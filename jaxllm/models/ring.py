"""Ring attention over a sequence that is sharded over devices (Liu et al. 2023).

Each device keeps its queries. Blocks of keys and values pass from device to device, and the softmax is accumulated
online (`blockwise.py`). The backward pass sends the blocks round once more, with their gradients, so a device never
holds more than two blocks of keys, nor the scores of more than one.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.blockwise import Rule, Summed, add_block, delta_of, pull_block, together
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.visibility import Tokens, visible


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
        B, T, N, H = q.shape
        K = k.shape[2]
        q_BTKGH = q.reshape(B, T, K, N // K, H)
        if key is not None:
            for axis in ("data", "fsdp", "tensor", "context"):
                key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        return _ring(rule, q_BTKGH, k, v, tokens, window, key).reshape(q.shape)

    rows, heads = ("data", "fsdp"), "tensor" if k_BTKH.shape[2] % mesh.shape["tensor"] == 0 else None
    whole, cut, per_token = jax.P(), jax.P(rows, "context", heads, None), jax.P(rows, "context")
    specs = (cut, cut, cut, per_token, whole, whole)
    key = dropout_key if rule.dropout_rate else None
    return jax.shard_map(run, in_specs=specs, out_specs=cut, check_vma=False)(
        q_BTNH, k_BTKH, v_BTKH, tokens, window, key
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: Any, key: Any) -> jax.Array:
    """[B, T, K, G, H] queries of this device against the keys of all -> the same shape."""
    return _forward(rule, q, k, v, tokens, window, key)[0]


def _forward(
    rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: Any, key: Any
) -> tuple[jax.Array, Any]:
    q, tokens, window = together((q, tokens, window))

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        summed, (k, v, theirs) = carry
        seen_BTS = visible(tokens, theirs, causal=rule.causal, window=window)
        summed = add_block(rule, q, k, v, seen_BTS, _block_key(key, i), summed)
        return (summed, _pass_on((k, v, theirs))), None

    (summed, _), _ = jax.lax.scan(step, (Summed.of(q), (k, v, tokens)), jnp.arange(jax.lax.axis_size("context")))
    out, log_z = name(summed.done(v.dtype), ATTENTION)
    return out, (q, k, v, tokens, window, key, out, log_z)


def _backward(rule: Rule, kept: Any, dout: jax.Array) -> tuple[Any, ...]:
    q, k, v, tokens, window, key, out, log_z = kept
    dout, tokens, window = together((dout, tokens, window))
    terms = delta_of(dout, out), log_z

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        dq, (k, v, theirs, dk, dv) = carry
        seen_BTS = visible(tokens, theirs, causal=rule.causal, window=window)
        dq, dk, dv = pull_block(rule, (q, k, v), seen_BTS, _block_key(key, i), dout, terms, (dq, dk, dv))
        return (dq, _pass_on((k, v, theirs, dk, dv))), None

    dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    start: Any = dq, (k, v, tokens, dk, dv)
    (dq, (_, _, _, dk, dv)), _ = jax.lax.scan(step, start, jnp.arange(jax.lax.axis_size("context")))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_ring.defvjp(_forward, _backward)


def _block_key(key: Any, i: jax.Array) -> Any:
    """Of dropout on the block that this device meets in turn i."""
    return None if key is None else jax.random.fold_in(key, i)


def _pass_on(block: Any) -> Any:
    """Sends every device's block to the next device; after as many turns as devices it is back."""
    parts = jax.lax.axis_size("context")
    to = [(i, (i + 1) % parts) for i in range(parts)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, "context", to), block)
