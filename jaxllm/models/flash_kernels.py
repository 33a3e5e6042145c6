"""The kernels of `flash.py`, in Pallas' dialect for Triton: what one program computes of attention on a GPU.

A program of the forward pass, and of the gradient of the queries, has a block of queries of one head and goes through
the blocks of keys that they see; one of the gradients of keys and values has a block of keys and goes through the
blocks of queries that see it, of every head that shares them (Dao 2023, FlashAttention-2). Scores are in base 2, as is
the logarithm of their normaliser. Arrays are references to what the program may read: all keys [S, H] of its head, its
own queries [C, H], tokens int32 [3, S] (segment, position, branch), and the list of blocks with two numbers: how many
of them need the mask, which come first, and how many there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LOG2E = math.log2(math.e)

LOWEST = -1e30
"""Below any score: where the highest begins."""

HIDDEN = 2 * LOWEST
"""The score of a key that is not seen; 2 to the power of it less any highest score is 0."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """The static arguments."""

    causal: bool
    windowed: bool
    branched: bool
    scale: float
    softcap: float
    dropout_rate: float

    def scores(self, dots: jax.Array) -> jax.Array:
        """Of products of queries and keys, in base 2, before the mask."""
        if self.softcap:
            return jnp.tanh(dots * (self.scale / self.softcap)) * (self.softcap * LOG2E)
        return dots * (self.scale * LOG2E)

    def slope(self, scores: jax.Array) -> Any:
        """The derivative of the scores before the soft-cap, by what they are after it."""
        return 1 - jnp.square(scores * (1 / (self.softcap * LOG2E))) if self.softcap else 1.0

    def seen(self, query: jax.Array, key: jax.Array, window: jax.Array, turned: bool) -> jax.Array:
        """`visibility.visible` of tokens [3, T] and [3, S] -> bool [T, S], or turned [S, T]."""
        q, k = (lambda x: x[None, :], lambda x: x[:, None]) if turned else (lambda x: x[:, None], lambda x: x[None, :])
        seen = (q(query[0]) == k(key[0])) & (k(key[0]) > 0)
        distance = q(query[1]) - k(key[1])
        if self.causal:
            seen &= distance >= 0
        if self.windowed:
            seen &= (distance <= window) & (distance >= -window)
        if self.branched:
            seen &= (k(key[2]) == 0) | (k(key[2]) == q(query[2]))
        return seen


def keep(
    rate: float, seeds: tuple[Any, Any], head: Any, query: jax.Array, key: jax.Array, turned: bool = False
) -> jax.Array:
    """Dropout's factor on probabilities of a head for queries [T] and keys [S] by number -> [T, S], or turned [S, T].

    A hash of the two numbers, so that each pass, whatever its blocks, drops the same. seeds: two uint32.
    """
    row = _mix(_mix(seeds[0] + head.astype(jnp.uint32)) + query.astype(jnp.uint32))
    column = _mix(seeds[1] + key.astype(jnp.uint32))
    pair = row[None, :] ^ column[:, None] if turned else row[:, None] ^ column[None, :]
    bits = (_mix(pair) >> jnp.uint32(8)).astype(jnp.int32)
    return jnp.where(bits >= int(rate * 2**24), jnp.float32(1 / (1 - rate)), jnp.float32(0))


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every bit of x changes half of the result (the constants are C. Wellons's)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


def _dot(a: jax.Array, b: jax.Array, *, turn: bool = False) -> jax.Array:
    """a @ b, or a @ b.T, in float32."""
    return jax.lax.dot_general(a, b, (((1,), (1 if turn else 0,)), ((), ())), preferred_element_type=jnp.float32)


def _tokens(ref: Any, at: Any, rule: Rule) -> Any:
    """Segments, positions and branches of a block of tokens; branches only where the rule asks for them."""
    return tuple(ref[row, at] if row < 2 or rule.branched else None for row in range(3))


def _through(listed: Any, counts: Any, body: Callable[[Any, Any, bool], Any], carry: Any) -> Any:
    """Runs body(block, carry, masked) for the blocks of a list: with the mask, then for those that are seen whole."""
    some, all_ = counts[0], counts[1]
    carry = jax.lax.fori_loop(0, some, lambda n, carry: body(listed[n], carry, True), carry)
    return jax.lax.fori_loop(some, all_, lambda n, carry: body(listed[n], carry, False), carry)


def forward(
    rule: Rule, C: int, q: Any, k: Any, v: Any, query: Any, key: Any, listed: Any, counts: Any, numbers: Any,
    out: Any, log_z: Any,
) -> None:  # fmt: skip
    """out [C, H] and log_z [C] of a block of queries. C: keys of a block. numbers: window and two seeds, int32."""
    block, whole = pl.program_id(0), slice(None)
    q_TH, T = q[...], q.shape[0]
    tokens, head = _tokens(query, whole, rule), _head()
    window, seeds = numbers[0], _seeds(numbers)

    def body(j: jax.Array, carry: Any, masked: bool) -> Any:
        y_TH, top_T, weight_T = carry
        at = pl.ds(j * C, C)
        s_TS = rule.scores(_dot(q_TH, k[at, :], turn=True))
        if masked:
            s_TS = jnp.where(rule.seen(tokens, _tokens(key, at, rule), window, False), s_TS, HIDDEN)
        higher_T = jnp.maximum(top_T, jnp.max(s_TS, axis=1))
        p_TS = jnp.exp2(s_TS - higher_T[:, None])
        shrink_T = jnp.exp2(top_T - higher_T)
        weight_T = weight_T * shrink_T + jnp.sum(p_TS, axis=1)
        if rule.dropout_rate:
            p_TS = p_TS * keep(rule.dropout_rate, seeds, head, _numbers(block, T), _numbers(j, C))
        return y_TH * shrink_T[:, None] + _dot(p_TS.astype(v.dtype), v[at, :]), higher_T, weight_T

    zeros_T = jnp.zeros((T,), jnp.float32)
    carry = jnp.zeros(q_TH.shape, jnp.float32), zeros_T + LOWEST, zeros_T
    y_TH, top_T, weight_T = _through(listed, counts, body, carry)
    some_T = weight_T > 0
    weight_T = jnp.where(some_T, weight_T, 1.0)
    out[...] = (y_TH / weight_T[:, None]).astype(out.dtype)
    log_z[...] = jnp.where(some_T, top_T + jnp.log2(weight_T), 0.0)


def backward_dq(
    rule: Rule, C: int, q: Any, k: Any, v: Any, dout: Any, log_z: Any, delta: Any, query: Any, key: Any, listed: Any,
    counts: Any, numbers: Any, dq: Any,
) -> None:  # fmt: skip
    """dq [C, H] of a block of queries. delta: the sums of dout * out over the features."""
    block, whole = pl.program_id(0), slice(None)
    q_TH, dout_TH, T = q[...], dout[...], q.shape[0]
    log_z_T, delta_T = log_z[...], delta[...]
    tokens, head = _tokens(query, whole, rule), _head()
    window, seeds = numbers[0], _seeds(numbers)

    def body(j: jax.Array, dq_TH: jax.Array, masked: bool) -> jax.Array:
        at = pl.ds(j * C, C)
        k_SH = k[at, :]
        s_TS = rule.scores(_dot(q_TH, k_SH, turn=True))
        slope = rule.slope(s_TS)
        if masked:
            s_TS = jnp.where(rule.seen(tokens, _tokens(key, at, rule), window, False), s_TS, HIDDEN)
        p_TS = jnp.exp2(s_TS - log_z_T[:, None])
        dp_TS = _dot(dout_TH, v[at, :], turn=True)
        if rule.dropout_rate:
            dp_TS = dp_TS * keep(rule.dropout_rate, seeds, head, _numbers(block, T), _numbers(j, C))
        ds_TS = p_TS * (dp_TS - delta_T[:, None]) * slope
        return dq_TH + _dot(ds_TS.astype(k.dtype), k_SH)

    dq_TH = _through(listed, counts, body, jnp.zeros(q_TH.shape, jnp.float32))
    dq[...] = (dq_TH * rule.scale).astype(dq.dtype)


def backward_dkv(
    rule: Rule, C: int, q: Any, k: Any, v: Any, dout: Any, log_z: Any, delta: Any, query: Any, key: Any, listed: Any,
    counts: Any, numbers: Any, dk: Any, dv: Any,
) -> None:  # fmt: skip
    """dk and dv [C, H] of a block of keys, from q and dout [T, G, H] of all heads that share them. C: of queries."""
    block, whole = pl.program_id(0), slice(None)
    k_SH, v_SH, S, G = k[...], v[...], k.shape[0], q.shape[1]
    tokens, first = _tokens(key, whole, rule), _head(G)
    window, seeds = numbers[0], _seeds(numbers)

    def of_head(g: jax.Array, totals: Any) -> Any:
        def body(i: jax.Array, totals: Any, masked: bool) -> Any:
            dk_SH, dv_SH = totals
            at = pl.ds(i * C, C)
            q_TH, dout_TH = q[at, g, :], dout[at, g, :]
            s_ST = rule.scores(_dot(k_SH, q_TH, turn=True))
            slope = rule.slope(s_ST)
            if masked:
                s_ST = jnp.where(rule.seen(_tokens(query, at, rule), tokens, window, True), s_ST, HIDDEN)
            p_ST = jnp.exp2(s_ST - log_z[g, at][None, :])
            dp_ST, kept_ST = _dot(v_SH, dout_TH, turn=True), p_ST
            if rule.dropout_rate:
                factor_ST = keep(rule.dropout_rate, seeds, first + g, _numbers(i, C), _numbers(block, S), True)
                dp_ST, kept_ST = dp_ST * factor_ST, p_ST * factor_ST
            ds_ST = p_ST * (dp_ST - delta[g, at][None, :]) * slope
            dv_SH = dv_SH + _dot(kept_ST.astype(dout.dtype), dout_TH)
            return dk_SH + _dot(ds_ST.astype(q.dtype), q_TH), dv_SH

        return _through(listed, counts, body, totals)

    zeros_SH = jnp.zeros(k_SH.shape, jnp.float32)
    dk_SH, dv_SH = jax.lax.fori_loop(0, G, of_head, (zeros_SH, zeros_SH))
    dk[...] = (dk_SH * rule.scale).astype(dk.dtype)
    dv[...] = dv_SH.astype(dv.dtype)


def _head(G: int = 1) -> jax.Array:
    """The number of the program's head, over all rows; of G heads that share a key's, the first's."""
    return (pl.program_id(1) * pl.num_programs(2) + pl.program_id(2)) * G


def _seeds(numbers: Any) -> tuple[jax.Array, jax.Array]:
    return numbers[1].astype(jnp.uint32), numbers[2].astype(jnp.uint32)


def _numbers(block: jax.Array, size: int) -> jax.Array:
    """The numbers of a block's tokens in their row."""
    return block * size + jnp.arange(size)
