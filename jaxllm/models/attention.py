"""Scaled dot-product attention over packed rows: by XLA, whole or in blocks, by kernels of GPUs and TPUs, a ring."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm import planning
from jaxllm.axes import cuts
from jaxllm.models.backends import BACKENDS, LANES, Asked, choose
from jaxllm.models.blockwise import LONG, blockwise_attention
from jaxllm.models.layers import dropout, soft_cap, softmax
from jaxllm.models.remat import ATTENTION, name
from jaxllm.models.ring import ring_attention
from jaxllm.models.visibility import Tokens, visible

__all__ = ["BACKENDS", "Tokens", "attention", "visible"]


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    query: Tokens,
    key: Tokens,
    *,
    causal: bool,
    window: jax.Array | None = None,
    windows: tuple[int, ...] = (),
    scale: float | None = None,
    softcap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    backend: str = "xla",
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017) -> [B, T, N, H] in v's dtype; softmax in float32.

    Each of the K key heads serves N / K query heads (grouped-query attention, Ainslie et al. 2023). query, key: the
    tokens, which determine the mask (`visibility.visible`). window: the greatest distance that is visible, int32 scalar
    in tokens; it may be traced. windows: all the values that `window` may take. scale: of the scores, H^-1/2 by
    default. softcap: the scores become c tanh(score / c) (Gemma 2), 0 for none. A query that sees no key (padding)
    gives finite values.

    backend: one of BACKENDS. Where it does not support the arguments, another computes the same (`backends.choose`):
    splash (Pallas, for TPU) has no dropout and no branches, needs queries and keys to be the same tokens, at least 128
    of them, and `windows`, for it compiles a kernel for each. flash (Pallas, for GPU) has everything, for at least 64
    queries. cudnn needs 16-bit inputs, has no dropout and no softcap, and gets a mask [B, T, S], so it is not for long
    rows. Rows of splash and cudnn are padded to a multiple of 128. From `LONG` on, xla computes in blocks
    (`blockwise.py`). On several devices kernels need the mesh to be set (`jax.set_mesh`); without, auto means xla.
    Where that mesh cuts the sequence (context), `ring_attention` computes it, for every backend.
    """
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    q_BTNH, k_BSKH, v_BSKH = name((q_BTNH, k_BSKH, v_BSKH), ATTENTION)
    scale = H**-0.5 if scale is None else scale
    drops = dropout_rate > 0 and dropout_key is not None
    if (parts := cuts("context")) > 1 and query is key and T % parts == 0:
        return ring_attention(
            q_BTNH, k_BSKH, v_BSKH, query, causal=causal, window=window,
            scale=scale, softcap=softcap, dropout_rate=dropout_rate, dropout_key=dropout_key,
        )  # fmt: skip
    how: dict[str, Any] = {
        "causal": causal, "window": window, "scale": scale, "softcap": softcap, "dropout_rate": dropout_rate,
        "dropout_key": dropout_key,
    }  # fmt: skip
    asked = Asked(
        T, k_BSKH.shape[1], H, q_BTNH.dtype, causal, same=query is key, branched=query.branches_BT is not None,
        windowed=window is not None, listed=bool(windows), softcap=softcap, dropout=dropout_rate if drops else 0.0,
    )  # fmt: skip
    backend = choose(backend, asked).backend
    if backend == "flash":
        from jaxllm.models.flash import flash_attention  # late, for Pallas takes long to import

        return flash_attention(q_BTNH, k_BSKH, v_BSKH, query, key, **how)
    if backend == "splash":
        q_BTNH, k_BSKH, v_BSKH, query = _padded((q_BTNH * scale, k_BSKH, v_BSKH, query))
        return _splash(q_BTNH, k_BSKH, v_BSKH, query, causal, window, windows, softcap)[:, :T]
    if backend == "cudnn":
        # Its backward pass gives what is not a number where half of 128 tokens are left over and no score is high.
        q_BTNH, k_BSKH, v_BSKH, query, key = _padded((q_BTNH, k_BSKH, v_BSKH, query, key))
        seen_BTS = visible(query, key, causal=causal, window=window)
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, mask=seen_BTS[:, None], scale=scale, implementation="cudnn"
        )[:, :T]
    if T >= LONG and k_BSKH.shape[1] >= LONG:
        return blockwise_attention(q_BTNH, k_BSKH, v_BSKH, query, key, **how)
    if causal and query is key and planning.platform() == "cpu" and T >= LANES and T % _PARTS == 0:
        return name(_xla_in_parts(q_BTNH, k_BSKH, v_BSKH, query, window, how), ATTENTION)
    seen_BTS = visible(query, key, causal=causal, window=window)
    return name(_xla(q_BTNH, k_BSKH, v_BSKH, seen_BTS, scale, softcap, dropout_rate, dropout_key), ATTENTION)


_PARTS = 4
"""Parts of the queries of a causal row on a CPU."""


def _xla_in_parts(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, tokens: Tokens, window: jax.Array | None,
    how: dict[str, Any],
) -> jax.Array:  # fmt: skip
    """`_xla` of a quarter of the queries at a time, with the keys up to its end: 5/8 of all scores.

    As in `_splash` and `blockwise.py`, no key that is visible comes after its query in the row.
    """

    def part(i: int) -> jax.Array:
        begin, end = (n * q_BTNH.shape[1] // _PARTS for n in (i, i + 1))
        query, key = jax.tree.map(lambda x: x[:, begin:end], tokens), jax.tree.map(lambda x: x[:, :end], tokens)
        drops = how["dropout_key"]
        return _xla(
            q_BTNH[:, begin:end], k_BTKH[:, :end], v_BTKH[:, :end], visible(query, key, causal=True, window=window),
            how["scale"], how["softcap"], how["dropout_rate"], None if drops is None else jax.random.fold_in(drops, i),
        )  # fmt: skip

    return jnp.concatenate([part(i) for i in range(_PARTS)], axis=1)


def _xla(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    seen_BTS: jax.Array,
    scale: float,
    softcap: float,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if T == 1:  # a step of generation; where heads share keys, up to ten times as fast on a CPU without the axis
        scores_BKGTS = product("BKGH,BSKH->BKGS", q_BTKGH[:, 0], k_BSKH)[..., None, :]
    else:
        scores_BKGTS = product("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH)
    scores_BKGTS = soft_cap(scores_BKGTS * scale, softcap)
    scores_BKGTS = jnp.where(seen_BTS[:, None, None], scores_BKGTS, -1e30)
    probs_BKGTS = softmax(scores_BKGTS).astype(v_BSKH.dtype)
    probs_BKGTS = dropout(probs_BKGTS, dropout_rate, dropout_key)
    if T == 1:
        return jnp.einsum("BKGS,BSKH->BKGH", probs_BKGTS[:, :, :, 0], v_BSKH).reshape(B, T, N, H)
    return jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(B, T, N, H)


def _padded(tree: Any) -> Any:
    """Arrays [B, T, ...] padded with zeros to a multiple of LANES tokens, which as segments nobody sees."""

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % LANES), *[(0, 0)] * (x.ndim - 2)])

    return jax.tree.map(pad, tree)


def _splash(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    tokens: Tokens,
    causal: bool,
    window: jax.Array | None,
    windows: tuple[int, ...],
    softcap: float,
) -> jax.Array:
    """The Pallas kernel, cut along the mesh that is set: rows over data and fsdp, heads over tensor."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, segments_BT: jax.Array, which: jax.Array) -> jax.Array:
        kernels = [_splash_rows(q.shape[1], q.shape[2] // k.shape[2], causal, w, softcap) for w in windows or (None,)]
        if len(kernels) == 1:
            return kernels[0](q, k, v, segments_BT)
        return jax.lax.switch(which, kernels, q, k, v, segments_BT)

    which = jnp.int32(0) if window is None else jnp.argmax(jnp.asarray(windows) == window)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:  # one device, or already cut (pmap, shard_map)
        return run(q_BTNH, k_BTKH, v_BTKH, tokens.segments_BT, which)
    rows = tuple(axis for axis in ("data", "fsdp") if axis in mesh.axis_names)
    heads = "tensor" if "tensor" in mesh.axis_names and k_BTKH.shape[2] % mesh.shape["tensor"] == 0 else None
    whole, cut = jax.P(), jax.P(rows, None, heads, None)
    cut_run = jax.shard_map(run, in_specs=(cut, cut, cut, jax.P(rows), whole), out_specs=cut, check_vma=False)
    return cut_run(q_BTNH, k_BTKH, v_BTKH, tokens.segments_BT, which)


def _splash_rows(
    T: int, groups: int, causal: bool, window: int | None, softcap: float
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
    """(q_BTNH, k_BTKH, v_BTKH, segments_BT) -> [B, T, N, H], for one window. On a CPU it is interpreted, for tests."""
    # Imported late, for it is slow.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    reach = None if window is None or window >= T else window
    mask: masks.Mask = masks.CausalMask((T, T)) if causal else masks.FullMask((T, T))
    if reach is not None:
        mask = masks.LocalMask((T, T), (reach, 0 if causal else reach), 0)
    size = next(size for size in (512, 256, LANES) if T % size == 0)
    blocks = kernel.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size,
        block_q_dkv=size, block_kv_dkv=size, block_kv_dkv_compute=size,
        block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip

    def build(interpret: bool) -> Callable[..., jax.Array]:
        mqa = kernel.make_splash_mqa_single_device(
            masks.MultiHeadMask([mask] * groups),
            block_sizes=blocks,
            attn_logits_soft_cap=softcap or None,
            interpret=interpret,
            residual_checkpoint_name=ATTENTION,
        )
        over_heads = jax.vmap(mqa, in_axes=(0, 0, 0, None))
        return jax.vmap(lambda q, k, v, s: over_heads(q, k, v, kernel.SegmentIds(s, s)))

    def rows(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segments_BT: jax.Array) -> jax.Array:
        B, T, N, H = q_BTNH.shape
        q_BKGTH = jnp.moveaxis(q_BTNH.reshape(B, T, N // groups, groups, H), 1, 3)
        k_BKTH, v_BKTH = jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2)
        y_BKGTH = jax.lax.platform_dependent(
            q_BKGTH, k_BKTH, v_BKTH, segments_BT, cpu=build(interpret=True), default=build(interpret=False)
        )
        return jnp.moveaxis(y_BKGTH, 3, 1).reshape(B, T, N, H)

    return rows
