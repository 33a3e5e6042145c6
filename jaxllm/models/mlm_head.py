"""Masked language models: an encoder whose head gives a logit per token of the vocabulary.

Devlin et al. 2018, BERT, section 3.1. Every family has the same head: dense, activation, norm, then the product with
the embedding table, transposed, and a bias per token. Where the tables are narrower than the residual stream (ELECTRA,
ALBERT), the dense layer leads to their width. The whole head is `head`, so that a loss computes it for the positions
that it learns from alone.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.models import deberta, encoder
from jaxllm.models.encoders import Transform, build_encoder
from jaxllm.models.layers import dense
from jaxllm.params import Limits, Rules
from jaxllm.types import Batch, Metrics


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
    """The configuration of a masked language model."""

    encoder: encoder.Config
    transform_bias: bool = True
    transform_activation: str = "gelu"
    unembed_bias: bool = True
    """A bias per token of the vocabulary."""
    tied: bool = True
    """The logits are products with the embedding table; else with a matrix of their own."""
    legacy: bool = True
    """Of DeBERTa: the head's tensors are called as BERT's (`cls.predictions`), and not `lm_predictions`."""
    learned: float = 1.0
    """Share of the positions of a row that a batch learns from, about: the head is computed for so many at a time."""

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters that are not the encoder's."""
        return ("transform.*", *(("unembed.*",) if self.unembed_bias or not self.tied else ()))


_KERNEL = P("fsdp", "tensor")
"""How the table is sharded in the product, transposed, whatever the vocabulary."""


class Unembed(nnx.Module):
    """What the head has of its own in the vocabulary: a bias, and a kernel (d, V) where it is not the table."""

    def __init__(self, c: MaskedConfig, width: int, rngs: nnx.Rngs):
        e = c.encoder
        shape = (width, e.vocab_size)
        self.kernel = None if c.tied else nnx.Param(e.init_std * jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(e.vocab_size)) if c.unembed_bias else None


class MaskedLM(nnx.Module):
    """A masked language model: Batch -> hidden_BTD -> logits of the token that stands at each position, float32."""

    def __init__(self, config: MaskedConfig, rngs: nnx.Rngs):
        width = config.encoder.embedding_width or config.encoder.width
        self.body = build_encoder(config.encoder, rngs)
        self.transform = Transform(config, rngs, width)
        self.unembed = Unembed(config, width, rngs) if config.unembed_bias or not config.tied else None
        self.config = config

    @property
    def limits(self) -> Limits:
        """The encoder's."""
        return self.body.limits

    @property
    def learned(self) -> float:
        """Share of the positions of a row that a batch learns from, about, which `over_tokens` asks for."""
        return self.config.learned

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The encoder's output, [B, T, D], and no metrics. key: for dropout; None for none."""
        return self.body(batch, key), {}

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV (any leading axes), float32."""
        x = self.transform(hidden_ND)
        kernel = None if self.unembed is None else self.unembed.kernel
        kernel_DV = self.body.embeddings.tokens.embedding[...].T if kernel is None else kernel[...]
        logits_NV = dense(x, kernel_DV, cut=_KERNEL).astype(jnp.float32)
        if self.unembed is None or self.unembed.bias is None:
            return logits_NV
        return logits_NV + jnp.broadcast_to(self.unembed.bias[...], logits_NV.shape)


SHARDING: Rules = (
    (r"unembed\.kernel", _KERNEL),
    (r"unembed\.kernel", P(("fsdp", "tensor"), None)),
    (r"unembed\.bias", P("tensor")),
    (r"unembed\.bias", P()),
    *encoder.SHARDING,
    *deberta.SHARDING,
    (r"transform\.dense\.kernel", P("fsdp", "tensor")),
    (r"transform\.(dense\.bias|norm\.(scale|bias))", P("fsdp")),
)
