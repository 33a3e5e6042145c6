"""Attention as kernels for GPUs, which never hold the scores of a row, and know all that `visibility.visible` knows.

FlashAttention (Dao et al. 2022; Dao 2023): the softmax is accumulated online, and the backward pass computes the scores
again from the logarithm of its normaliser. Segments, positions, windows and branches of shared prompts are the mask
itself: each program is given a list of the blocks that it sees something of, made from the lowest and highest of them
in each block, and those seen whole are computed without a mask (as in FlexAttention, Dong et al. 2024). Key heads are
shared by query heads without being repeated; soft-caps and dropout are inside. `flash_kernels.py` has the kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxllm.models import flash_kernels as kernels
from jaxllm.models.by_device import by_device
from jaxllm.models.flash_kernels import Rule
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.visibility import Tokens


class Blocks(NamedTuple):
    """Tokens of a block of queries and of keys, and the warps and loads in flight of a program."""

    queries: int
    keys: int
    warps: int
    stages: int


def blocks_of(H: int, dtype: Any) -> tuple[Blocks, Blocks]:
    """Of the forward and the backward pass, for heads of H features, a power of two. They fit an A100's shared memory.

    Chosen by the registers and shared memory that the compiler says they take (experiments/LOG.md), not by time.
    """
    if jnp.dtype(dtype).itemsize == 2 and H <= 64:
        return Blocks(128, 64, 4, 3), Blocks(64, 64, 4, 2)
    if jnp.dtype(dtype).itemsize == 2 and H <= 128:
        return Blocks(128, 64, 8, 3), Blocks(64, 64, 8, 2)
    if H <= 128:
        return Blocks(64, 32, 4, 2), Blocks(32, 32, 4, 2)
    return Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2)


def flash_attention(
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
) -> jax.Array:
    """Attention with the arguments of `attention` -> [B, T, N, H]. Queries that see no key give 0.

    Heads are padded with zeros to a power of two of features. Each device of the mesh that is set computes its own rows
    and, where `tensor` divides them, its own heads; dropout zeroes as many probabilities as on one device, but others.
    On a CPU the kernels are interpreted, for tests.
    """
    drops = dropout_key is not None and dropout_rate > 0
    branched = query.branches_BT is not None and key.branches_BT is not None
    rule = Rule(causal, window is not None, branched, scale, softcap, dropout_rate if drops else 0.0)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, query: Tokens, key: Tokens, window: Any, drops: Any) -> jax.Array:
        H, T = q.shape[3], q.shape[1]
        wide = max(16, pl.next_power_of_2(H))
        longest = max(max(one.queries, one.keys) for one in blocks_of(wide, q.dtype))
        q, k, v = (_padded(x, longest, wide) for x in (q, k, v))
        info = tuple(_info(tokens, x.shape[1], branched) for tokens, x in ((query, q), (key, k)))
        seeds = jnp.zeros(2, jnp.uint32) if drops is None else jax.random.bits(drops, (2,), jnp.uint32)
        reach = jnp.int32(0) if window is None else jnp.asarray(window, jnp.int32)
        numbers = jnp.concatenate([reach[None], jax.lax.bitcast_convert_type(seeds, jnp.int32)])
        return _flash(rule, q, k, v, *info, numbers)[:, :T, :, :H]

    return by_device(run, (q_BTNH, k_BSKH, v_BSKH), (query, key), window, dropout_key if drops else None)


def _padded(x_BTNH: jax.Array, block: int, wide: int) -> jax.Array:
    """With zeros, to whole blocks of tokens and so many features."""
    return jnp.pad(x_BTNH, [(0, 0), (0, -x_BTNH.shape[1] % block), (0, 0), (0, wide - x_BTNH.shape[3])])


def _info(tokens: Tokens, length: int, branched: bool) -> jax.Array:
    """Segments, positions and branches, int32 [B, 3, length]; what is added is padding, which nobody sees."""
    branches_BT = tokens.branches_BT
    if not branched or branches_BT is None:
        branches_BT = jnp.zeros_like(tokens.segments_BT)
    info = jnp.stack([tokens.segments_BT, tokens.positions_BT, branches_BT], axis=1).astype(jnp.int32)
    return jnp.pad(info, [(0, 0), (0, 0), (0, length - info.shape[2])])


def block_lists(
    rule: Rule, query: jax.Array, key: jax.Array, window: jax.Array, size: Blocks, turned: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The blocks of keys that each block of queries sees something of, and how many: those that need the mask, and all.

    query, key: tokens, [B, 3, T] and [B, 3, S]. Returns int32 [B, I, J] and [B, I, 2] for I blocks of queries and J of
    keys; turned, the blocks of queries that see each block of keys, [B, J, I] and [B, J, 2]. A block may be listed of
    which nothing is seen, or as in need of the mask without being so; never the reverse.
    """
    (q_low, q_high), (k_low, k_high) = _range(query, size.queries, 2), _range(key, size.keys, 1)
    some = (k_high[0] > 0) & (q_low[0] <= k_high[0]) & (k_low[0] <= q_high[0])
    whole = (q_low[0] == q_high[0]) & (k_low[0] == k_high[0]) & (q_low[0] == k_low[0])
    nearest, farthest = q_low[1] - k_high[1], q_high[1] - k_low[1]  # of signed distances, the least and the greatest
    if rule.causal:
        some, whole = some & (farthest >= 0), whole & (nearest >= 0)
    if rule.windowed:
        some &= (nearest <= window) & (farthest >= -window)
        whole &= (farthest <= window) & (nearest >= -window)
    if rule.branched:
        some &= (k_low[2] == 0) | ((q_low[2] <= k_high[2]) & (k_low[2] <= q_high[2]))
        own = (q_low[2] == q_high[2]) & (k_low[2] == k_high[2]) & (q_low[2] == k_low[2])
        whole &= (k_high[2] == 0) | own
    rank = jnp.where(some, jnp.where(whole, 1, 0), 2)
    rank = jnp.swapaxes(rank, 1, 2) if turned else rank
    count = rank.shape[2]
    order = jnp.sort(rank * count + jnp.arange(count)[None, None], axis=2) % count
    numbers = jnp.stack([jnp.sum(rank == 0, axis=2), jnp.sum(rank < 2, axis=2)], axis=2)
    return order.astype(jnp.int32), numbers.astype(jnp.int32)


def _range(info: jax.Array, C: int, axis: int) -> tuple[jax.Array, jax.Array]:
    """The lowest and the highest of the tokens in each block of C, int32 [3, B, I, 1] or (axis 1) [3, B, 1, I].

    A block of both padding and text has text's segments from 0.
    """
    blocks = jnp.moveaxis(info.reshape(*info.shape[:2], -1, C), 1, 0)
    return tuple(jnp.expand_dims(f(blocks, axis=3), axis + 1) for f in (jnp.min, jnp.max))  # type: ignore[return-value]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(
    rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, query: jax.Array, key: jax.Array, numbers: jax.Array
) -> jax.Array:
    return _forward(rule, q, k, v, query, key, numbers)[0]


def _forward(
    rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, query: jax.Array, key: jax.Array, numbers: jax.Array
) -> tuple[jax.Array, Any]:
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    size = blocks_of(H, q.dtype)[0]
    C, G = size.queries, N // K
    own, all_keys = _spec(C, H), _spec(S, H, all_of=G)
    lists = block_lists(rule, query, key, numbers[0], size)
    out, log_z = _call(
        functools.partial(kernels.forward, rule, size.keys), "flash_attention_forward", size, (T // C, B, N),
        (q, k, v), (own, all_keys, all_keys),
        (query, _info_spec(C)), (key, _info_spec(S, whole=True)), lists, numbers,
        (jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((B, N, T), jnp.float32)),
        (own, _row_spec(C)),
    )  # fmt: skip
    out, log_z = name((out, log_z), ATTENTION)
    return out, (q, k, v, query, key, numbers, out, log_z)


def _backward(rule: Rule, kept: Any, dout: jax.Array) -> tuple[Any, ...]:
    q, k, v, query, key, numbers, out, log_z = kept
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    size, G = blocks_of(H, q.dtype)[1], N // K
    delta = jnp.moveaxis(jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=3), 1, 2)
    given = (q, k, v, dout, log_z, delta)

    C = size.queries
    own, all_keys, row = _spec(C, H), _spec(S, H, all_of=G), _row_spec(C)
    (dq,) = _call(
        functools.partial(kernels.backward_dq, rule, size.keys), "flash_attention_backward_dq", size, (T // C, B, N),
        given, (own, all_keys, all_keys, own, row, row),
        (query, _info_spec(C)), (key, _info_spec(S, whole=True)),
        block_lists(rule, query, key, numbers[0], size), numbers,
        (jax.ShapeDtypeStruct(q.shape, q.dtype),), (own,),
    )  # fmt: skip

    C = size.keys
    own = _spec(C, H)
    shared = pl.BlockSpec((None, T, G, H), lambda _, b, n: (b, 0, n, 0))
    rows = pl.BlockSpec((None, G, T), lambda _, b, n: (b, n, 0))
    dk, dv = _call(
        functools.partial(kernels.backward_dkv, rule, size.queries), "flash_attention_backward_dkv", size,
        (S // C, B, K), given, (shared, own, own, shared, rows, rows),
        (query, _info_spec(T, whole=True)), (key, _info_spec(C)),
        block_lists(rule, query, key, numbers[0], size, turned=True), numbers,
        (jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)), (own, own),
    )  # fmt: skip
    return dq, dk, dv, None, None, None


_flash.defvjp(_forward, _backward)


def _spec(C: int, H: int, *, all_of: int = 0) -> pl.BlockSpec:
    """Of arrays [B, T, N, H]: the program's block of C tokens of its head, or all of the head that so many share."""
    if all_of:
        return pl.BlockSpec((None, C, None, H), lambda _, b, n: (b, 0, n // all_of, 0))
    return pl.BlockSpec((None, C, None, H), lambda i, b, n: (b, i, n, 0))


def _row_spec(C: int) -> pl.BlockSpec:
    """Of arrays [B, N, T]."""
    return pl.BlockSpec((None, None, C), lambda i, b, n: (b, n, i))


def _info_spec(C: int, *, whole: bool = False) -> pl.BlockSpec:
    """Of tokens [B, 3, T]."""
    return pl.BlockSpec((None, 3, C), lambda i, b, _: (b, 0, 0 if whole else i))


def _call(
    kernel: Callable[..., None], title: str, size: Blocks, grid: tuple[int, ...], given: Any, given_at: Any, query: Any,
    key: Any, lists: tuple[jax.Array, jax.Array], numbers: jax.Array, shapes: Any, shapes_at: Any,
) -> Any:  # fmt: skip
    """Runs a program for each (block, row, head) of the grid. query, key: tokens and where they lie."""
    lists_at = tuple(pl.BlockSpec((None, None, x.shape[2]), lambda i, b, _: (b, i, 0)) for x in lists)
    at = [*given_at, query[1], key[1], *lists_at, pl.BlockSpec(numbers.shape, lambda *_: (0,))]

    def build(interpret: bool) -> Callable[..., Any]:
        return pl.pallas_call(
            kernel, grid=grid, in_specs=at, out_specs=shapes_at, out_shape=shapes, name=title, interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=size.warps, num_stages=size.stages),
        )  # fmt: skip

    return jax.lax.platform_dependent(*given, query[0], key[0], *lists, numbers, cpu=build(True), default=build(False))
