"""Mixtures of experts: each token goes through its k best MLPs (Shazeer et al. 2017; Fedus et al. 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.axes import over_devices
from jaxllm.models.decoder_config import Config
from jaxllm.models.layers import ACTIVATIONS, Dense, narrow, recompute
from jaxllm.models.remat import MLP, name
from jaxllm.types import Mean, Terms

Load = tuple[jax.Array, jax.Array]
"""Of one layer, over tokens that are not padding, [E]: how many each expert got, and the sum of its probabilities."""


class Kernels(nnx.Module):
    """kernel (experts, d_in, d_out), normal of `std`."""

    def __init__(self, experts: int, d_in: int, d_out: int, *, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (experts, d_in, d_out)))

    def __call__(self, x_ND: jax.Array, sizes_E: jax.Array) -> jax.Array:
        """The first sizes[0] rows through expert 0, the next through expert 1 ..."""
        return jax.lax.ragged_dot(x_ND, narrow(self.kernel[...], x_ND.dtype), sizes_E)


class Experts(nnx.Module):
    """Gated MLPs, a few of which a router chooses for each token. No token is dropped, however uneven the load.

    Tokens are sorted by expert, so that only the chosen experts are computed.
    """

    def __init__(self, c: Config, *, out_std: float, rngs: nnx.Rngs):
        self.router = Dense(c.width, c.experts, bias=False, std=c.init_std, rngs=rngs)
        self.gate = Kernels(c.experts, c.width, c.mlp_width, std=c.init_std, rngs=rngs)
        self.up = Kernels(c.experts, c.width, c.mlp_width, std=c.init_std, rngs=rngs)
        self.down = Kernels(c.experts, c.mlp_width, c.width, std=out_std, rngs=rngs)
        self.config = c

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, Load]:
        """[B, T, D] -> [B, T, D], and the load. real_BT (bool): tokens that are not padding, used for the load only."""
        c = self.config
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        probs_NE = jax.nn.softmax(self.router(x_ND).astype(jnp.float32), axis=-1)
        weights_Nk, chosen_Nk = jax.lax.top_k(probs_NE, c.experts_per_token)
        if c.renormalise:
            weights_Nk /= jnp.sum(weights_Nk, axis=-1, keepdims=True)

        expert_M = chosen_Nk.reshape(-1)  # M: tokens times their choices
        order_M = jnp.argsort(expert_M)
        sizes_E = jnp.bincount(expert_M, length=c.experts).astype(jnp.int32)
        sorted_MD = x_ND[order_M // c.experts_per_token]
        activated = recompute(lambda gate, up: ACTIVATIONS[c.activation](gate) * up)
        inner = activated(*name((self.gate(sorted_MD, sizes_E), self.up(sorted_MD, sizes_E)), MLP))
        y_MD = self.down(inner, sizes_E)[jnp.argsort(order_M)]
        y_NkD = y_MD.reshape(*chosen_Nk.shape, -1) * weights_Nk[..., None].astype(y_MD.dtype)

        real_N = real_BT.reshape(-1, 1).astype(jnp.float32)
        sent_NE = jnp.sum(jax.nn.one_hot(chosen_Nk, c.experts), axis=1)
        load = jnp.sum(sent_NE * real_N, axis=0), jnp.sum(probs_NE * real_N, axis=0)
        return jnp.sum(y_NkD, axis=1).reshape(x_BTD.shape), load


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
