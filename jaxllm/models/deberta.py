"""The encoder of DeBERTa-v2 and DeBERTa-v3 (He et al. 2020, 2021).

It is BERT's, with the attention of `disentangled.py`: one table of relative positions serves all layers, which project
it. Absolute positions, and a convolution beside the first layer, are optional.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.axes import cut_as_batch
from jaxllm.models import encoder
from jaxllm.models.attention import Tokens
from jaxllm.models.disentangled import disentangled_attention
from jaxllm.models.layers import ACTIVATIONS, MLP, Dense, Embed, LayerNorm, dense, dropout, scan_stack, stack
from jaxllm.params import Limits, Rules
from jaxllm.types import Batch, InputError, Metrics


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """An encoder with disentangled attention; never with rotary positions, windows, norms before or shared blocks."""

    reach: int = 0
    """Distance from which relative positions are the same, in tokens; 0 for attention to content alone."""
    buckets: int = 0
    """Rows of the table of relative positions in each direction, logarithmic in the distance; 0 for one a distance."""
    content_to_position: bool = False
    """Scores have the term of queries with relative positions (c2p)."""
    position_to_content: bool = False
    """Scores have the term of relative positions with keys (p2c)."""
    shared_projections: bool = False
    """Relative positions are projected as the tokens are, not by projections of their own."""
    relative_norm: bool = False
    """The table of relative positions is normalised."""
    absolute_positions: bool = True
    """The embeddings have learned positions too."""
    conv_taps: int = 0
    """Taps of the convolution over the embeddings that the first layer's output gets; odd, 0 for none."""
    conv_activation: str = "gelu"
    position_dropout: float = 0.1
    """Rate, on the table of relative positions."""
    conv_dropout: float = 0.1
    """Rate, on the convolution's output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rope_base", "window", "pre_norm", "groups"):
            if getattr(self, name):
                raise InputError(f"{name} is {getattr(self, name)}, which DeBERTa does not have; leave it out")
        if bool(self.reach) != (self.content_to_position or self.position_to_content):
            raise InputError("relative positions need a reach and c2p, p2c or both; give both or neither")
        if self.buckets and not 1 < self.buckets < 2 * self.reach - 2:
            raise InputError(
                f"{self.buckets} buckets for distances below {self.reach}; choose 2 to {2 * self.reach - 3}"
            )
        if self.conv_taps and self.conv_taps % 2 == 0:
            raise InputError(f"a convolution of {self.conv_taps} taps has no middle; choose an odd number")

    @property
    def learned_positions(self) -> int:
        """Rows of the position embedding; 0 for none."""
        return super().learned_positions if self.absolute_positions else 0


class Attention(nnx.Module):
    """Disentangled self-attention of one block."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        def project() -> Dense:
            return Dense(c.width, c.width, bias=c.attention_bias, std=c.init_std, rngs=rngs)

        self.q, self.k, self.v, self.out = project(), project(), project(), project()
        self.pos_q = project() if c.position_to_content and not c.shared_projections else None
        self.pos_k = project() if c.content_to_position and not c.shared_projections else None
        self.config = c

    def __call__(
        self, x_BTD: jax.Array, tokens: Tokens, table_RD: jax.Array | None, key: jax.Array | None
    ) -> jax.Array:
        c = self.config
        probs_key, table_key = (None, None) if key is None else jax.random.split(key)

        def heads(project: Dense, x: jax.Array) -> jax.Array:
            return project(x).reshape(*x.shape[:-1], c.heads, -1)

        pos_q = pos_k = None
        if table_RD is not None:
            table_RD = dropout(table_RD, c.position_dropout, table_key)
            pos_q = heads(self.pos_q or self.q, table_RD) if c.position_to_content else None
            pos_k = heads(self.pos_k or self.k, table_RD) if c.content_to_position else None
        y_BTNH = disentangled_attention(
            heads(self.q, x_BTD), heads(self.k, x_BTD), heads(self.v, x_BTD), pos_q, pos_k, tokens,
            buckets=c.buckets, reach=c.reach, dropout_rate=c.attention_dropout, dropout_key=probs_key,
        )  # fmt: skip
        return self.out(y_BTNH.reshape(x_BTD.shape))


class Block(nnx.Module):
    """One layer: BERT's, but for the attention."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        self.attn = Attention(c, rngs)
        self.mlp = MLP(
            c.width, c.mlp_width, bias=c.mlp_bias, gated=c.gated, activation=c.activation,
            std=c.init_std, out_std=c.init_std, dropout=c.mlp_dropout, rngs=rngs,
        )  # fmt: skip
        self.attn_norm = LayerNorm(c.width, bias=c.norm_bias, eps=c.norm_eps)
        self.mlp_norm = LayerNorm(c.width, bias=c.norm_bias, eps=c.norm_eps)
        self.config = c

    def __call__(self, x: jax.Array, tokens: Tokens, table_RD: jax.Array | None, key: jax.Array | None) -> jax.Array:
        c, x = self.config, cut_as_batch(x)
        own, attn, inner, mlp = (None,) * 4 if key is None else jax.random.split(key, 4)
        x = self.attn_norm(x + dropout(self.attn(x, tokens, table_RD, own), c.attention_output_dropout, attn))
        return self.mlp_norm(x + dropout(self.mlp(x, inner), c.mlp_output_dropout, mlp))


class Convolution(nnx.Module):
    """A convolution over the tokens of each segment, and the norm of its sum with the first layer's output."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        shape = (c.conv_taps, c.width, c.width)
        self.kernel = nnx.Param(c.init_std * jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(c.width))
        self.norm = LayerNorm(c.width, bias=c.norm_bias, eps=c.norm_eps)
        self.config = c

    def __call__(self, x_BTD: jax.Array, segments_BT: jax.Array, key: jax.Array | None) -> jax.Array:
        """The convolution of the embeddings; beyond the ends of a segment there are zeros."""
        c, T, side = self.config, x_BTD.shape[1], self.config.conv_taps // 2
        longer = jnp.pad(x_BTD, ((0, 0), (side, side), (0, 0)))
        segments = jnp.pad(segments_BT, ((0, 0), (side, side)))
        y_BTD = jnp.broadcast_to(self.bias[...].astype(x_BTD.dtype), x_BTD.shape)
        for tap in range(c.conv_taps):
            inside_BT = segments[:, tap : tap + T] == segments_BT
            y_BTD += dense(jnp.where(inside_BT[..., None], longer[:, tap : tap + T], 0), self.kernel[tap])
        return ACTIVATIONS[c.conv_activation](dropout(y_BTD, c.conv_dropout, key))


class Encoder(nnx.Module):
    """Batch -> hidden_BTD in the dtype of the computation."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = config
        self.embeddings = encoder.Embeddings(c, rngs)
        self.blocks = stack(lambda rngs: Block(c, rngs), c.depth, rngs)
        self.relative = Embed(2 * (c.buckets or c.reach), c.width, std=c.init_std, rngs=rngs) if c.reach else None
        self.relative_norm = LayerNorm(c.width, eps=c.norm_eps) if c.reach and c.relative_norm else None
        self.conv = Convolution(c, rngs) if c.conv_taps else None
        self.config = c

    @property
    def limits(self) -> Limits:
        """What mesh axes must divide besides the parameters' axes."""
        return (("tensor", "heads", self.config.heads),)

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        c, tokens = self.config, Tokens.of(batch)
        embed_key, stack_key, conv_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        keys = None if stack_key is None else jax.random.split(stack_key, c.depth)
        x_BTD = self.embeddings(batch, embed_key)
        table_RD = None if self.relative is None else self.relative.embedding[...]
        if table_RD is not None and self.relative_norm is not None:
            table_RD = self.relative_norm(table_RD)
        table_RD = None if table_RD is None else table_RD.astype(x_BTD.dtype)
        beside = None if self.conv is None else self.conv(x_BTD, tokens.segments_BT, conv_key)

        def call(block: Block, x: jax.Array, layer: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, None]:
            first, own = layer
            y = block(x, tokens, table_RD, own)
            if self.conv is not None and beside is not None:
                y = jnp.where(first, self.conv.norm(y + beside), y)
            return y, None

        per_layer = (jnp.arange(c.depth) == 0, keys)
        x_BTD, _ = scan_stack(call, self.blocks, x_BTD, per_layer, remat=c.remat, unroll=c.unroll)
        return cut_as_batch(x_BTD)

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """hidden_BTD, and no metrics."""
        return self(batch, key), {}


SHARDING: Rules = (
    (r"blocks\.attn\.pos_(q|k)\.kernel", P(None, "fsdp", "tensor")),
    (r"blocks\.attn\.pos_(q|k)\.bias", P(None, ("tensor", "fsdp"))),
    (r"relative\.embedding", P(None, ("fsdp", "tensor"))),
    (r"conv\.kernel", P(None, "fsdp", "tensor")),
    (r"(conv\.bias|(relative_|conv\.)norm\.(scale|bias))", P("fsdp")),
)
"""Beside those of `encoder.SHARDING`."""
