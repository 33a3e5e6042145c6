"""Mixtures of experts: each token goes through its k best MLPs (Shazeer et al. 2017; Fedus et al. 2021)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.axes import axes_of, over_devices, residual, spec_of
from jaxllm.models.decoder_config import Config
from jaxllm.models.layers import ACTIVATIONS, Dense, narrow, recompute
from jaxllm.models.ragged import ragged_dot
from jaxllm.models.remat import MLP, name
from jaxllm.types import Mean, Terms

Load = tuple[jax.Array, jax.Array]
"""Of one layer, over tokens that are not padding, [E]: how many each expert got, and the sum of its probabilities."""


class Kernels(nnx.Module):
    """kernel (experts, d_in, d_out), normal of `std`."""

    def __init__(self, experts: int, d_in: int, d_out: int, *, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (experts, d_in, d_out)))


class Experts(nnx.Module):
    """Gated MLPs, a few of which a router chooses for each token. No token is dropped, however uneven the load.

    Tokens are sorted by expert, so that only the chosen experts are computed. Each device of the mesh that is set sorts
    its own tokens alone: along `tensor` it has a part of each expert, along `expert` some of the experts.
    """

    def __init__(self, c: Config, *, out_std: float, rngs: nnx.Rngs):
        self.router = Dense(c.width, c.experts, bias=False, std=c.init_std, rngs=rngs)
        self.gate = Kernels(c.experts, c.width, c.mlp_width, std=c.init_std, rngs=rngs)
        self.up = Kernels(c.experts, c.width, c.mlp_width, std=c.init_std, rngs=rngs)
        self.down = Kernels(c.experts, c.mlp_width, c.width, std=out_std, rngs=rngs)
        self.config = c

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, Load]:
        """[B, T, D] -> [B, T, D], each as `cut_as_residual`, and the load, of tokens that are not padding.

        real_BT (bool): those tokens.
        """
        logits_BTE = self.router(x_BTD)
        kernels = [narrow(each.kernel[...], x_BTD.dtype) for each in (self.gate, self.up, self.down)]
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.are_all_axes_manual or mesh.size == 1:
            return mixture(self.config, P(), P(), x_BTD, logits_BTE, real_BT, *kernels)
        tokens = P(*spec_of(x_BTD, residual(x_BTD))[:2])
        rows = "fsdp" if "fsdp" in axes_of(tokens) else None  # without rows along fsdp all of them see whole kernels
        inner, outer = (spec_of(kernels[i], wanted) for i, wanted in
                        ((0, ("expert", rows, "tensor")), (2, ("expert", "tensor", rows))))  # fmt: skip
        run = functools.partial(mixture, self.config, tokens, inner)
        specs = (tokens, tokens, tokens, inner, inner, outer)
        return jax.shard_map(run, in_specs=specs, out_specs=(tokens, P()))(x_BTD, logits_BTE, real_BT, *kernels)


def mixture(
    c: Config, tokens: P, kernels: P, x_BTD: jax.Array, logits_BTE: jax.Array, real_BT: jax.Array,
    gate_EDF: jax.Array, up_EDF: jax.Array, down_EFD: jax.Array,
) -> tuple[jax.Array, Load]:  # fmt: skip
    """`Experts` on one device. tokens, kernels: how [B, T, D] and [E, D, F] are sharded over the devices."""
    cut, own = axes_of(tokens), axes_of(kernels)

    def whole(x: jax.Array, axis: str, at: int, over: tuple[str, ...]) -> jax.Array:
        return jax.lax.all_gather(x, axis, axis=at, tiled=True) if axis in over else x

    probs_BTE = jax.nn.softmax(logits_BTE.astype(jnp.float32), axis=-1)
    weights_BTk, chosen_BTk = jax.lax.top_k(probs_BTE, c.experts_per_token)
    if c.renormalise:
        weights_BTk /= jnp.sum(weights_BTk, axis=-1, keepdims=True)
    sent_BTE = jnp.sum(jax.nn.one_hot(chosen_BTk, c.experts), axis=2)
    sent_E, probs_E = (jnp.sum(x * real_BT[..., None].astype(x.dtype), axis=(0, 1)) for x in (sent_BTE, probs_BTE))
    load: Load = jax.lax.psum((sent_E, probs_E), cut) if cut else (sent_E, probs_E)

    x_BTD, weights_BTk, chosen_BTk = (whole(x, "tensor", 1, cut) for x in (x_BTD, weights_BTk, chosen_BTk))
    if others := tuple(axis for axis in own if axis not in cut):  # along these, parts of experts for the same tokens
        x_BTD, weights_BTk = (jax.lax.pcast(x, others, to="varying") for x in (x_BTD, weights_BTk))
    gate_EDF, up_EDF = (whole(x, "fsdp", 1, own) for x in (gate_EDF, up_EDF))
    down_EFD = whole(down_EFD, "fsdp", 2, own)

    expert_M = chosen_BTk.reshape(-1)  # M: tokens times their choices
    experts = gate_EDF.shape[0]
    if "expert" in own:  # those of this device come first
        expert_M = (expert_M - jax.lax.axis_index("expert") * experts) % c.experts
    inverse_M, sizes_E = places(expert_M, c.experts)
    order_M = jnp.zeros_like(inverse_M).at[inverse_M].set(jnp.arange(inverse_M.size), unique_indices=True)
    sizes_E, here_M1 = sizes_E[:experts], (expert_M < experts)[:, None]
    sorted_MD = spread(x_BTD.reshape(-1, c.width), order_M, inverse_M)
    if experts < c.experts:
        sorted_MD = jnp.where(here_M1[order_M], sorted_MD, 0)
    through = lambda x, kernel: ragged_dot(x, kernel, sizes_E)  # noqa: E731
    activated = recompute(lambda gate, up: ACTIVATIONS[c.activation](gate) * up)
    inner_MF = activated(*name((through(sorted_MD, gate_EDF), through(sorted_MD, up_EDF)), MLP))
    y_MD = spread(through(inner_MF, down_EFD), inverse_M, order_M)
    if experts < c.experts:
        y_MD = jnp.where(here_M1, y_MD, 0)
    y_BTkD = y_MD.reshape(*chosen_BTk.shape, -1) * weights_BTk[..., None].astype(y_MD.dtype)
    y_BTD = jnp.sum(y_BTkD, axis=2)
    if "tensor" in cut:
        y_BTD = jax.lax.psum_scatter(y_BTD, "tensor", scatter_dimension=1, tiled=True)
    return (jax.lax.psum(y_BTD, others) if others else y_BTD), load


def places(expert_M: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """Where each is once they are sorted by expert, int32 [M], and how many each expert has, [E].

    Counted, as there are few experts: TPUs' compiler takes half a minute for each sort of 32,768.
    """
    mine_ME = (expert_M[:, None] == jnp.arange(experts)[None]).astype(jnp.int32)
    rank_ME = jnp.cumsum(mine_ME, axis=0)
    sizes_E = rank_ME[-1]
    before_E = jnp.cumsum(sizes_E) - sizes_E
    return jnp.sum(mine_ME * (rank_ME - 1 + before_E[None]), axis=1), sizes_E


@jax.custom_vjp
def spread(x_ND: jax.Array, order_M: jax.Array, inverse_M: jax.Array) -> jax.Array:
    """x[order // k] for M = N k, order a permutation and `inverse` its inverse -> [M, D].

    The gradient is looked up as well, where automatic differentiation would add up rows one by one.
    """
    return x_ND.at[order_M // (order_M.size // len(x_ND))].get(mode="promise_in_bounds")


def _spread_backward(saved: tuple[jax.Array, int], dy_MD: jax.Array) -> tuple[jax.Array, None, None]:
    inverse_M, n = saved
    return jnp.sum(dy_MD.at[inverse_M].get(mode="promise_in_bounds").reshape(n, -1, dy_MD.shape[1]), axis=1), None, None


spread.defvjp(lambda x, order, inverse: (spread(x, order, inverse), (inverse, len(x))), _spread_backward)


def balance(load_LE: Load, real_BT: jax.Array, coefficient: float) -> Terms:
    """The balance loss: E x sum over experts of (share of tokens) x (mean probability), over all layers.

    Fedus et al. 2021, equations 4 to 6. Shares and means are over all devices, under jit as under pmap, and over the
    tokens of one forward pass, as in `transformers`. With microbatches the loss is the mean of theirs weighted by
    tokens, which differs a little from the loss of the whole batch, whose shares are known only at its end.
    """
    sent_E, probs_E = (over_devices(jnp.sum(x_LE, axis=0)) for x_LE in load_LE)
    count = jnp.sum(real_BT.astype(jnp.float32))
    rows = jnp.maximum(over_devices(count), 1.0) * load_LE[0].shape[0]
    loss = sent_E.shape[0] * jnp.sum((sent_E / rows) * (probs_E / rows))
    return ((coefficient, Mean(loss * count, count)),)
