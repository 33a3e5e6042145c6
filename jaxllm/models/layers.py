"""Layers that all models share: dense, norms, rotary positions, dropout, embeddings, MLP, and the scan over blocks.

Parameters are float32; the input's dtype decides the dtype of the computation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm import planning
from jaxllm.axes import cut_evenly, cuts, look_up
from jaxllm.models.remat import MLP as MLP_NAME
from jaxllm.models.remat import REMAT, RESIDUAL, name


def gelu(x: jax.Array) -> jax.Array:
    """x times the cumulative of the normal distribution (Hendrycks and Gimpel 2016), computed in float32.

    By erf as in PyTorch; `jax.nn.gelu` takes erfc, which costs twice as much on a CPU.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def recompute(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`fn` with none of its intermediate results kept: the backward pass recomputes them from its arguments.

    For functions that cost less to compute than to keep: norms and activations.
    """
    return jax.checkpoint(fn, prevent_cse=False)


@jax.custom_vjp
def matmul(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """x [..., D] @ kernel -> [..., F]. On CPU its gradient contracts over flattened rows.

    Otherwise XLA:CPU fuses the producer of dy into a strided, transposing copy of the kernel's gradient, far slower
    than its matmul. On other platforms the gradient is that of automatic differentiation.
    """
    return x @ kernel_DF


def _matmul_forward(x: jax.Array, kernel_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel_DF, (x, kernel_DF)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def flat(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows_D, rows_F = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return (rows_F @ kernel.T).reshape(x.shape), jax.lax.dot_general(rows_D, rows_F, (((0,), (0,)), ((), ())))

    def plain(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = tuple(range(x.ndim - 1))
        return dy @ kernel.T, jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))

    if cuts("context") > 1:  # rows and positions are both sharded, and the flattened axis could not be
        return plain(*saved, dy)
    return jax.lax.platform_dependent(*saved, dy, cpu=flat, default=plain)


matmul.defvjp(_matmul_forward, _matmul_backward)


def narrow(kernel: jax.Array, dtype: Any) -> jax.Array:
    """kernel in `dtype`, as `astype` gives it.

    XLA:TPU finds that kernels are only ever read in 16 bits, and then keeps the whole stack of layers in 16 bits too,
    from before the first layer to the end of the backward pass: half the size of the parameters again. It does not look
    behind an explicit rounding, which the conversion of one layer's slice takes in.
    """
    if jnp.dtype(dtype).itemsize < kernel.dtype.itemsize and planning.platform() == "tpu":
        kind = jnp.finfo(dtype)
        kernel = jax.lax.reduce_precision(kernel, kind.nexp, kind.nmant)
    return kernel.astype(dtype)


PIECE_BYTES = 64 * 2**20
"""Most bytes of a kernel's gradient that `matmul_in_pieces` has whole on a device."""


@jax.custom_vjp
def matmul_in_pieces(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """`matmul` with a kernel that is sharded as P("fsdp", "tensor"), for one of many features F: that of a head.

    Each device's rows give it a gradient of the whole kernel, of which it keeps its part. Here the gradient is made and
    scattered in pieces, some features D of each device's part at a time, so that the whole is never in memory.
    """
    return matmul(x, kernel_DF)


def _pieces_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel_DF = saved
    (D, F), parts = kernel_DF.shape, cuts("fsdp")
    size = kernel_DF.dtype.itemsize * D * F // cuts("tensor")
    count = next((n for n in range(1, D // parts) if D % (parts * n) == 0 and size <= n * PIECE_BYTES), 1)
    if parts == 1 or D % parts or count == 1:
        return jax.vjp(matmul, x, kernel_DF)[1](dy)
    x_ppD = jnp.moveaxis(x.reshape(*x.shape[:-1], parts, count, -1), -2, 0)
    rows = tuple(range(dy.ndim - 1))

    def piece(_: None, x_pD: jax.Array) -> tuple[None, jax.Array]:
        dkernel_pDF = jax.lax.dot_general(x_pD, dy, ((rows, rows), ((), ())))
        return None, jax.lax.with_sharding_constraint(dkernel_pDF, P("fsdp", None, "tensor"))

    _, dkernel_ppDF = jax.lax.scan(piece, None, x_ppD)
    return dy @ kernel_DF.T, jnp.swapaxes(dkernel_ppDF, 0, 1).reshape(D, F)


matmul_in_pieces.defvjp(lambda x, kernel_DF: (matmul(x, kernel_DF), (x, kernel_DF)), _pieces_backward)


def dense(x: jax.Array, kernel_DF: jax.Array, bias_F: jax.Array | None = None, cut: P | None = None) -> jax.Array:
    """x [..., D] -> [..., F] in x's dtype. cut: the kernel's sharding, also on a mesh that does not divide F."""
    product = matmul if cut is None else matmul_in_pieces
    y = product(x, narrow(cut_evenly(kernel_DF, cut), x.dtype))[..., : kernel_DF.shape[1]]
    return y if bias_F is None else y + jnp.broadcast_to(bias_F.astype(x.dtype), y.shape)


@jax.custom_jvp
def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis. Its gradient needs only the result (jax.nn.softmax keeps exp(x) too)."""
    y = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return y / jnp.sum(y, axis=-1, keepdims=True)


@softmax.defjvp
def _softmax_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, (dx,) = softmax(*primals), tangents
    return y, y * (dx - jnp.sum(y * dx, axis=-1, keepdims=True))


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """cap * tanh(x / cap) (Gemma 2, Gemma Team 2024); x itself for a cap of 0."""
    return cap * jnp.tanh(x / cap) if cap else x


def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, eps: float) -> jax.Array:
    """Layer normalisation (Ba et al. 2016), computed in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    y = y * jnp.broadcast_to(scale_D, y.shape)
    return (y if bias_D is None else y + jnp.broadcast_to(bias_D, y.shape)).astype(x.dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of x and scales the rest up (Srivastava et al. 2014); without a key, x itself."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(keeps(key, rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def keeps(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """bool, False for a share `rate`, to the nearest of 65,536 parts: two neighbours share a random word."""
    share = 2 if shape[-1] % 2 == 0 else 1
    word = jax.random.bits(key, (*shape[:-1], shape[-1] // share), jnp.uint32)
    parts = jnp.stack([word & 0xFFFF, word >> 16][:share], axis=-1)
    return parts.reshape(shape) >= round(rate * 2**16)


def rms_norm(x: jax.Array, scale_D: jax.Array, eps: float, *, offset: float = 0.0) -> jax.Array:
    """Root-mean-square normalisation (Zhang and Sennrich 2019), times offset + scale, computed in float32."""
    wide = x.astype(jnp.float32)
    y = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (y * jnp.broadcast_to(offset + scale_D, y.shape)).astype(x.dtype)


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, base: Any) -> jax.Array:
    """Rotary positions over the two halves of each head (Su et al. 2021, GPT-NeoX's layout); base may be traced."""
    half = x_BTNH.shape[-1] // 2
    return rotate(x_BTNH, positions_BT, jnp.power(jnp.asarray(base, jnp.float32), -jnp.arange(half) / half))


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, frequency_H: jax.Array) -> jax.Array:
    """`rope` with the radians per position of each pair of features given, float32 [H / 2]."""
    angle_BT1H = positions_BT[..., None, None].astype(jnp.float32) * frequency_H[None, None, None, :]
    cos, sin = jnp.cos(angle_BT1H), jnp.sin(angle_BT1H)
    if planning.platform() == "cpu":  # XLA:CPU computes them anew for each head; what is divided, even by 1, only once
        one_BT1H = 1 + 0 * angle_BT1H
        cos, sin = cos / one_BT1H, sin / one_BT1H
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


class Dense(nnx.Module):
    """A linear layer: kernel (d_in, d_out), normal of `std`, and a bias of zeros if any. cut: as for `dense`."""

    def __init__(
        self, d_in: int, d_out: int, *, bias: bool = True, std: float = 0.02, cut: P | None = None, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (d_in, d_out)))
        self.bias = nnx.Param(jnp.zeros(d_out)) if bias else None
        self.cut = cut

    def __call__(self, x: jax.Array) -> jax.Array:
        return dense(x, self.kernel[...], None if self.bias is None else self.bias[...], self.cut)


class MLP(nnx.Module):
    """Up, activation, down, [..., D] -> [..., D]; activation(gate) * up where it is gated (Shazeer 2020).

    D: width. F: inner. std: of the kernels that lead in, out_std of the one that leads out.
    """

    def __init__(
        self, width: int, inner: int, *, bias: bool, gated: bool, activation: str, std: float, out_std: float,
        dropout: float = 0.0, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.up = Dense(width, inner, bias=bias, std=std, rngs=rngs)
        self.gate = Dense(width, inner, bias=bias, std=std, rngs=rngs) if gated else None
        self.down = Dense(inner, width, bias=bias, std=out_std, rngs=rngs)
        self.activation, self.rate = activation, dropout

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        if self.gate is None:
            inner = recompute(activation)(name(self.up(x), MLP_NAME))
        else:
            inner = recompute(lambda gate, up: activation(gate) * up)(*name((self.gate(x), self.up(x)), MLP_NAME))
        return self.down(dropout(inner, self.rate, key))


class LayerNorm(nnx.Module):
    """`layer_norm` with scale (d,), first ones, and a bias of zeros if any."""

    def __init__(self, d: int, *, bias: bool = True, eps: float):
        self.scale = nnx.Param(jnp.ones(d))
        self.bias = nnx.Param(jnp.zeros(d)) if bias else None
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        norm = recompute(lambda x, scale_D, bias_D: layer_norm(x, scale_D, bias_D, self.eps))
        return norm(x, self.scale[...], None if self.bias is None else self.bias[...])


class RMSNorm(nnx.Module):
    """`rms_norm` with scale (d,); at first offset + scale is one."""

    def __init__(self, d: int, *, eps: float, offset: float = 0.0):
        self.scale = nnx.Param(jnp.full(d, 1.0 - offset))
        self.eps, self.offset = eps, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        norm = recompute(lambda x, scale_D: rms_norm(x, scale_D, self.eps, offset=self.offset))
        return norm(x, self.scale[...])


class Embed(nnx.Module):
    """embedding (n, d), normal of `std`. cut: its sharding, also on a mesh that does not divide n."""

    def __init__(self, n: int, d: int, *, std: float = 0.02, cut: P | None = None, rngs: nnx.Rngs):
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), (n, d)))
        self.cut = cut

    def __call__(self, ids: jax.Array, features: tuple[str, ...] = ("fsdp",)) -> jax.Array:
        """Its rows for ids [B, T], which lie along `features` as the table's do -> [B, T, d]."""
        return look_up(cut_evenly(self.embedding[...], self.cut), ids, features)


def stack(build: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> Any:
    """`depth` blocks as one, each parameter with a leading layer axis."""
    return nnx.vmap(build, in_axes=0, out_axes=0)(rngs.split(depth))


def run_stack(
    blocks: Any, x: jax.Array, per_layer: Any, *, remat: str, unroll: int, order: Sequence[int] | None = None
) -> jax.Array:
    """x through stacked blocks, each called as `block(x, *its slice of per_layer)`. The rest is as for `scan_stack`."""

    def call(block: Any, x: jax.Array, extra: Any) -> tuple[jax.Array, None]:
        return block(x, *extra), None

    return scan_stack(call, blocks, x, per_layer, remat=remat, unroll=unroll, order=order)[0]


def scan_stack(
    call: Callable[[Any, Any, Any], tuple[Any, Any]],
    blocks: Any,
    x: Any,
    per_layer: Any,
    *,
    remat: str,
    unroll: int,
    order: Sequence[int] | None = None,
) -> tuple[Any, Any]:
    """Scans `call(block, x, its slice of per_layer) -> (x, y)` over stacked blocks; returns (x, stacked y).

    remat: what the backward pass recomputes, a name of REMAT. unroll: blocks per iteration of the compiled loop. 0
    means all of them on CPU, where a loop is slow, and 1 elsewhere, and 1 on CPU with remat: without a loop XLA:CPU
    would find the first result of what is to be recomputed, and keep it in memory. order: the block of each layer,
    where several layers share one; without it each block is one layer.
    """
    graphdef, params = nnx.split(blocks)

    def body(x: Any, layer: Any) -> tuple[Any, Any]:
        own, extra = layer
        if order is not None:  # taken inside the loop, so that a shared block is never copied for each layer
            own = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, own, keepdims=False), params)
        return call(nnx.merge(graphdef, own), x, extra)

    step = body
    if remat != "none":
        named = lambda x, layer: body(name(x, RESIDUAL), layer)  # noqa: E731
        step = jax.checkpoint(named, policy=REMAT[remat], prevent_cse=False)
    layers = (params if order is None else jnp.asarray(order, jnp.int32), per_layer)
    return jax.lax.scan(step, x, layers, unroll=unrolled(jax.tree.leaves(layers)[0].shape[0], remat, unroll))


def unrolled(depth: int, remat: str, unroll: int) -> int:
    """How many blocks of `depth` an iteration of the compiled loop has (`scan_stack`)."""
    return unroll or (depth if planning.platform() == "cpu" and remat == "none" else 1)
