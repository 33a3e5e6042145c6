"""Attention over blocks of queries and keys, so that memory holds the scores of one pair of blocks at a time.

The softmax is accumulated online (Milakov and Gimelshein 2018), and the backward pass recomputes the scores of each
pair from the logarithm of its normaliser (Dao et al. 2022, FlashAttention). Pairs of blocks in which no query sees a
key are skipped: the future of a causal row, other documents of a packed one, what is outside a window. `ring.py` passes
blocks from device to device with the same functions of one pair.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm import planning
from jaxllm.models.by_device import by_device
from jaxllm.models.layers import keeps, soft_cap
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.visibility import Tokens, visible

LONG = 2048
"""Queries and keys from which the scores of a whole row take more memory than blocks are worth."""

LOWEST = -1e30
"""Below any score, and finite."""


def block_length() -> int:
    """Tokens of a block. On a CPU the scores of a pair are nearer to its caches when there are fewer."""
    return 256 if planning.platform() == "cpu" else 512


@dataclasses.dataclass(frozen=True)
class Rule:
    """The static arguments."""

    causal: bool
    scale: float
    softcap: float
    dropout_rate: float


class Summed(NamedTuple):
    """What a block of queries has seen so far: weighted values, the highest score and the sum of weights, float32."""

    y_BKGTH: jax.Array
    top_BKGT: jax.Array
    weight_BKGT: jax.Array

    @classmethod
    def of(cls, q_BKGTH: jax.Array) -> Summed:
        """Before the first block of keys."""
        B, K, G, T, H = q_BKGTH.shape
        nothing_BKGT = jnp.zeros((B, K, G, T), jnp.float32)
        return cls(jnp.zeros((B, K, G, T, H), jnp.float32), nothing_BKGT + LOWEST, nothing_BKGT)

    def done(self, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """The attention [B, K, G, T, H], 0 for queries that see no key, and the log-normalisers [B, K, G, T]."""
        weight_BKGT = jnp.maximum(self.weight_BKGT, jnp.finfo(jnp.float32).tiny)
        return (self.y_BKGTH / weight_BKGT[..., None]).astype(dtype), self.top_BKGT + jnp.log(weight_BKGT)


def add_block(
    rule: Rule, q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, seen_BTS: jax.Array, key: Any, summed: Summed
) -> Summed:
    """Adds a block of keys to what the queries have seen. key: of dropout on this pair of blocks, or None."""

    def see(y_BKGTH: jax.Array, top_BKGT: jax.Array, weight_BKGT: jax.Array) -> Summed:
        scores = jnp.where(seen_BTS[:, None, None], _scores(rule, q_BKGTH, k_BKSH), -jnp.inf)
        higher_BKGT = jnp.maximum(top_BKGT, jnp.max(scores, axis=-1))  # finite, as it was before the first block
        p = jnp.exp(scores - higher_BKGT[..., None])
        shrink_BKGT = jnp.exp(top_BKGT - higher_BKGT)
        kept = (p * _keep(rule, key, p)).astype(v_BKSH.dtype)
        add_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", kept, v_BKSH, preferred_element_type=jnp.float32)
        weight_BKGT = weight_BKGT * shrink_BKGT + jnp.sum(p, axis=-1)
        return Summed(y_BKGTH * shrink_BKGT[..., None] + add_BKGTH, higher_BKGT, weight_BKGT)

    return jax.lax.cond(jnp.any(seen_BTS), see, Summed, *summed)


def pull_block(
    rule: Rule,
    blocks: tuple[jax.Array, jax.Array, jax.Array],
    seen_BTS: jax.Array,
    key: Any,
    dout_BKGTH: jax.Array,
    row_terms: tuple[jax.Array, jax.Array],
    totals: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adds the gradients of a pair of blocks (q, k, v) to `totals`, float32 (Dao et al. 2022, appendix B.2).

    row_terms: of the queries, delta = sum of dout * out over the features, and the log-normaliser, each [B, K, G, T].
    """
    q_BKGTH, k_BKSH, v_BKSH = blocks
    delta_BKGT, log_z_BKGT = row_terms
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def see(dq: jax.Array, dk: jax.Array, dv: jax.Array) -> tuple[jax.Array, ...]:
        scores = _scores(rule, q_BKGTH, k_BKSH)
        p = jnp.exp(jnp.where(seen_BTS[:, None, None], scores - log_z_BKGT[..., None], -jnp.inf))
        keep = _keep(rule, key, p)
        dp = einsum("BKGTH,BKSH->BKGTS", dout_BKGTH, v_BKSH) * keep
        ds = p * (dp - delta_BKGT[..., None]) * rule.scale
        if rule.softcap:
            ds *= 1 - jnp.square(scores / rule.softcap)
        ds = ds.astype(q_BKGTH.dtype)
        return (
            dq + einsum("BKGTS,BKSH->BKGTH", ds, k_BKSH),
            dk + einsum("BKGTS,BKGTH->BKSH", ds, q_BKGTH),
            dv + einsum("BKGTS,BKGTH->BKSH", (p * keep).astype(v_BKSH.dtype), dout_BKGTH),
        )

    return jax.lax.cond(jnp.any(seen_BTS), see, lambda *same: same, *totals)


Keys = tuple[jax.Array, jax.Array, Tokens]
"""Keys and values in blocks, [J, B, K, C, H], and their tokens."""


def add_keys(
    rule: Rule, q_BKGTH: jax.Array, query: Tokens, keys: Keys, window: Any, drops: Any, summed: Summed
) -> Summed:
    """Adds all blocks of keys to what a block of queries has seen. drops: the key of dropout for these, or None."""

    def of_keys(summed: Summed, column: Any) -> tuple[Summed, None]:
        k_BKSH, v_BKSH, key, j = column
        seen_BTS = visible(query, key, causal=rule.causal, window=window)
        return add_block(rule, q_BKGTH, k_BKSH, v_BKSH, seen_BTS, _key(drops, j), summed), None

    return jax.lax.scan(of_keys, summed, (*keys, jnp.arange(len(keys[0]))))[0]


def pull_keys(
    rule: Rule, q_BKGTH: jax.Array, query: Tokens, keys: Keys, window: Any, drops: Any, above: Any, dq: Any, totals: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Adds the gradients of a block of queries with all blocks of keys to dq, and to `totals` of keys and values.

    above: the gradient of the block's result, and `row_terms` of `pull_block`.
    """

    def of_keys(dq: jax.Array, column: Any) -> tuple[jax.Array, Any]:
        k_BKSH, v_BKSH, key, j, dk, dv = column
        seen_BTS = visible(query, key, causal=rule.causal, window=window)
        dout_BKGTH, terms = above
        blocks, pair = (q_BKGTH, k_BKSH, v_BKSH), _key(drops, j)
        dq, dk, dv = pull_block(rule, blocks, seen_BTS, pair, dout_BKGTH, terms, (dq, dk, dv))
        return dq, (dk, dv)

    return jax.lax.scan(of_keys, dq, (*keys, jnp.arange(len(keys[0])), *totals))


def _key(drops: Any, i: jax.Array) -> Any:
    """The key of dropout of the i-th block."""
    return None if drops is None else jax.random.fold_in(drops, i)


def delta_of(dout_BKGTH: jax.Array, out_BKGTH: jax.Array) -> jax.Array:
    """The sum of dout * out over the features, float32 [B, K, G, T]."""
    return jnp.sum(dout_BKGTH.astype(jnp.float32) * out_BKGTH.astype(jnp.float32), axis=-1)


def together(tree: Any) -> Any:
    """The arrays, each of which now depends on all.

    A scan over layers computes what is the same in every layer before it begins. The mask of one pair of blocks is, and
    so would be kept for all pairs; with this it depends on the layer's queries.
    """
    return jax.lax.optimization_barrier(tree)


def _scores(rule: Rule, q_BKGTH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
    """[B, K, G, T, S], float32, before the mask."""
    scores = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32) * rule.scale
    return soft_cap(scores, rule.softcap)


def _keep(rule: Rule, key: Any, p: jax.Array) -> Any:
    """Dropout's factor on the probabilities, the same each time for this key."""
    if key is None or not rule.dropout_rate:
        return 1.0
    return keeps(key, rule.dropout_rate, p.shape) / (1 - rule.dropout_rate)


def blockwise_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    query: Tokens,
    key: Tokens,
    *,
    causal: bool,
    window: jax.Array | None,
    scale: float,
    softcap: float,
    dropout_rate: float,
    dropout_key: jax.Array | None,
    block: int = 0,
) -> jax.Array:
    """Attention with the arguments of `attention` -> [B, T, N, H]. Queries that see no key give 0.

    Each device of the mesh that is set computes its own rows and, where `tensor` divides them, its own heads. Dropout
    zeroes as many probabilities as on one device, but others. block: tokens of a block, 0 for `block_length`.
    """
    block = block or block_length()
    rule = Rule(causal, scale, softcap, 0.0 if dropout_key is None else dropout_rate)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, query: Tokens, key: Tokens, window: Any, drops: Any) -> jax.Array:
        heads_first = cut_heads(q, k, v, block)
        y_IBKGCH = _blockwise(rule, *heads_first, cut(query, block), cut(key, block), window, drops)
        return join_heads(y_IBKGCH, q.shape)

    drops = dropout_key if rule.dropout_rate else None
    return by_device(run, (q_BTNH, k_BSKH, v_BSKH), (query, key), window, drops)


def cut(tree: Any, block: int) -> Any:
    """[B, T, ...] as blocks [I, B, C, ...]; the last is padded with zeros, which as segments nobody sees."""

    def one(x: jax.Array) -> jax.Array:
        count = -(-x.shape[1] // block)
        padded = jnp.pad(x, [(0, 0), (0, count * block - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(padded.reshape(x.shape[0], count, block, *x.shape[2:]), 1, 0)

    return jax.tree.map(one, tree)


def cut_heads(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, block: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Blocks of queries [I, B, K, G, C, H], and of keys and values [J, B, K, C, H].

    Heads come before tokens, so that no product of a pair of blocks has to move axes.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_IBCKGH, *keys_JBCKH = cut((q_BTNH.reshape(B, T, K, N // K, H), k_BSKH, v_BSKH), block)
    k_JBKCH, v_JBKCH = (jnp.moveaxis(x, 2, 3) for x in keys_JBCKH)
    return jnp.moveaxis(q_IBCKGH, 2, 4), k_JBKCH, v_JBKCH


def join_heads(y_IBKGCH: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What `cut_heads` made of queries, put together again: the shape [B, T, N, H]."""
    B, T, N, H = shape
    return jnp.moveaxis(y_IBKGCH, (0, 4), (1, 2)).reshape(B, -1, N, H)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, queries: Any, keys: Any, window: Any, drops: Any):  # type: ignore[no-untyped-def]
    """[I, B, K, G, C, H] blocks of queries against [J, B, K, C, H] of keys and values -> as the queries."""
    return _forward(rule, q, k, v, queries, keys, window, drops)[0]


def _forward(
    rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, queries: Tokens, keys: Tokens, window: Any, drops: Any
) -> tuple[jax.Array, Any]:
    q, queries, keys, window = together((q, queries, keys, window))

    def of_queries(_: None, row: Any) -> tuple[None, Any]:
        q_BKGTH, query, i = row
        return None, add_keys(rule, q_BKGTH, query, (k, v, keys), window, _key(drops, i), Summed.of(q_BKGTH)).done(
            v.dtype
        )

    _, (out, log_z) = jax.lax.scan(of_queries, None, (q, queries, jnp.arange(len(q))))
    out, log_z = name((out, log_z), ATTENTION)
    return out, (q, k, v, queries, keys, window, drops, out, log_z)


def _backward(rule: Rule, kept: Any, dout: jax.Array) -> tuple[Any, ...]:
    q, k, v, queries, keys, window, drops, out, log_z = kept
    dout, queries, keys, window = together((dout, queries, keys, window))

    def of_queries(totals: Any, row: Any) -> tuple[Any, jax.Array]:
        q_BKGTH, query, i, dout_BKGTH, out_BKGTH, log_z_BKGT = row
        above = dout_BKGTH, (delta_of(dout_BKGTH, out_BKGTH), log_z_BKGT)
        dq = jnp.zeros(q_BKGTH.shape, jnp.float32)
        dq, totals = pull_keys(rule, q_BKGTH, query, (k, v, keys), window, _key(drops, i), above, dq, totals)
        return totals, dq.astype(q.dtype)

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    (dk, dv), dq = jax.lax.scan(of_queries, start, (q, queries, jnp.arange(len(q)), dout, out, log_z))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None, None, None, None


_blockwise.defvjp(_forward, _backward)
