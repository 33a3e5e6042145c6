"""Ring attention over a sequence that is sharded over devices (Liu et al. 2023).

Each device keeps its queries. Blocks of keys and values pass from device to device, and the softmax is accumulated
online (Milakov and Gimelshein 2018). The backward pass sends the blocks round once more, with their gradients, so a
device never holds more than two blocks of keys, nor the scores of more than one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.layers import soft_cap
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.visibility import Tokens, visible

LOWEST = -1e30
"""Below any score, and finite."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """The static arguments."""

    parts: int
    causal: bool
    scale: float
    softcap: float
    dropout_rate: float


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
    rule = Rule(mesh.shape["context"], causal, scale, softcap, 0.0 if dropout_key is None else dropout_rate)

    def run(
        q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, window: jax.Array | None, key: jax.Array | None
    ) -> jax.Array:
        B, T, N, H = q.shape
        K = k.shape[2]
        q_BTKGH = q.reshape(B, T, K, N // K, H)
        if key is not None:
            for axis in ("data", "fsdp", "tensor"):
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
    B, T, K, G, H = q.shape

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        summed, block = carry
        k, v, theirs = block
        seen_BTS = visible(tokens, theirs, causal=rule.causal, window=window)

        def see(y_BKGTH: jax.Array, top_BKGT: jax.Array, weight_BKGT: jax.Array) -> tuple[jax.Array, ...]:
            scores, seen = _scores(rule, q, k), seen_BTS[:, None, None]
            scores = jnp.where(seen, scores, LOWEST)
            higher_BKGT = jnp.maximum(top_BKGT, jnp.max(scores, axis=-1))
            p = jnp.where(seen, jnp.exp(scores - higher_BKGT[..., None]), 0)
            shrink_BKGT = jnp.exp(top_BKGT - higher_BKGT)
            kept = p * _keep(rule, key, i, p)
            add = jnp.einsum("BKGTS,BSKH->BKGTH", kept.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return y_BKGTH * shrink_BKGT[..., None] + add, higher_BKGT, weight_BKGT * shrink_BKGT + jnp.sum(p, axis=-1)

        summed = jax.lax.cond(jnp.any(seen_BTS), see, lambda *same: same, *summed)
        return (summed, _pass_on(rule, block)), None

    nothing = jnp.zeros((B, K, G, T), jnp.float32)
    start = jnp.zeros((B, K, G, T, H), jnp.float32), nothing + LOWEST, nothing
    ((y, top, weight), _), _ = jax.lax.scan(step, (start, (k, v, tokens)), jnp.arange(rule.parts))
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    y = (y / weight[..., None]).astype(v.dtype)
    out = jnp.moveaxis(y, 3, 1)
    out, log_z_BKGT = name((out, top + jnp.log(weight)), ATTENTION)
    return out, (q, k, v, tokens, window, key, out, log_z_BKGT)


def _backward(rule: Rule, kept: Any, dout: jax.Array) -> tuple[Any, ...]:
    """Dao et al. 2022, appendix B.2, block by block."""
    q, k, v, tokens, window, key, out, log_z_BKGT = kept
    delta_BTKG = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    delta_BKGT = jnp.moveaxis(delta_BTKG, 1, 3)
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
        dq, (k, v, theirs, dk, dv) = carry
        seen_BTS = visible(tokens, theirs, causal=rule.causal, window=window)

        def see(dq: jax.Array, dk: jax.Array, dv: jax.Array) -> tuple[jax.Array, ...]:
            scores = _scores(rule, q, k)
            p = jnp.where(seen_BTS[:, None, None], jnp.exp(scores - log_z_BKGT[..., None]), 0)
            keep = _keep(rule, key, i, p)
            dp = einsum("BTKGH,BSKH->BKGTS", dout, v) * keep
            ds = p * (dp - delta_BKGT[..., None]) * rule.scale
            if rule.softcap:
                ds *= 1 - jnp.square(scores / rule.softcap)
            ds = ds.astype(q.dtype)
            return (
                dq + einsum("BKGTS,BSKH->BTKGH", ds, k),
                dk + einsum("BKGTS,BTKGH->BSKH", ds, q),
                dv + einsum("BKGTS,BTKGH->BSKH", (p * keep).astype(v.dtype), dout),
            )

        dq, dk, dv = jax.lax.cond(jnp.any(seen_BTS), see, lambda *same: same, dq, dk, dv)
        return (dq, _pass_on(rule, (k, v, theirs, dk, dv))), None

    dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    start: Any = dq, (k, v, tokens, dk, dv)
    (dq, (_, _, _, dk, dv)), _ = jax.lax.scan(step, start, jnp.arange(rule.parts))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_ring.defvjp(_forward, _backward)


def _scores(rule: Rule, q: jax.Array, k: jax.Array) -> jax.Array:
    """[B, K, G, T, S], float32, before the mask."""
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * rule.scale
    return soft_cap(scores, rule.softcap)


def _keep(rule: Rule, key: Any, i: jax.Array, p: jax.Array) -> Any:
    """Dropout's factor on the probabilities, the same each time this device meets this block."""
    if key is None:
        return 1.0
    key = jax.random.fold_in(jax.random.fold_in(key, jax.lax.axis_index("context")), i)
    return jax.random.bernoulli(key, 1 - rule.dropout_rate, p.shape) / (1 - rule.dropout_rate)


def _pass_on(rule: Rule, block: Any) -> Any:
    """Sends every device's block to the next device; after `parts` times it is back."""
    to = [(i, (i + 1) % rule.parts) for i in range(rule.parts)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, "context", to), block)
