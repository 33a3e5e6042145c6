"""What the heads on encoders share: the encoder of a configuration, and the dense layer and norm before the logits."""

from __future__ import annotations

from typing import Protocol

import jax
from flax import nnx

from jaxllm.models import deberta, encoder
from jaxllm.models.layers import ACTIVATIONS, Dense, LayerNorm


def build_encoder(config: encoder.Config, rngs: nnx.Rngs) -> encoder.Encoder | deberta.Encoder:
    """The encoder of this configuration."""
    return deberta.Encoder(config, rngs) if isinstance(config, deberta.Config) else encoder.Encoder(config, rngs)


class TransformConfig(Protocol):
    """The fields of a head's configuration that its `Transform` reads."""

    @property
    def encoder(self) -> encoder.Config: ...

    @property
    def transform_bias(self) -> bool: ...

    @property
    def transform_activation(self) -> str: ...


class Transform(nnx.Module):
    """Dense, activation and, by default, norm: [..., D] -> [..., width], by default D."""

    def __init__(self, c: TransformConfig, rngs: nnx.Rngs, width: int = 0, *, norm: bool = True):
        e = c.encoder
        self.dense = Dense(e.width, width or e.width, bias=c.transform_bias, std=e.init_std, rngs=rngs)
        self.norm = LayerNorm(width or e.width, bias=e.norm_bias, eps=e.norm_eps) if norm else None
        self.config = c

    def __call__(self, x: jax.Array) -> jax.Array:
        x = ACTIVATIONS[self.config.transform_activation](self.dense(x))
        return x if self.norm is None else self.norm(x)
