"""The bidirectional encoder: BERT and its kin, and ModernBERT, by configuration.

BERT (Devlin et al. 2018), RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and DistilBERT have learned positions and normalise
after each residual sum. ALBERT (Lan et al. 2019) shares blocks between layers. DeBERTa is in `deberta.py`. ModernBERT
(Warner et al. 2024) has rotary positions, normalises before attention and MLP, has a gated MLP, and sees only a window
in most layers.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.axes import cut_as_residual, gather, scatter
from jaxllm.models.attention import Tokens, attention
from jaxllm.models.layers import MLP, Dense, Embed, LayerNorm, dropout, rope, run_stack, stack
from jaxllm.params import Limits, Rules
from jaxllm.types import Batch, InputError, Metrics


@dataclasses.dataclass(frozen=True)
class Config:
    """The architecture of an encoder and how it is computed. The defaults are BERT's. Raises InputError."""

    vocab_size: int
    """Rows of the token embedding."""
    width: int
    """D: features of the residual stream."""
    depth: int
    """L: number of layers."""
    heads: int
    """N: attention heads; divides the width."""
    mlp_width: int
    """F: features inside the MLP."""
    max_positions: int = 512
    """Longest sequence, in tokens."""
    position_offset: int = 0
    """Rows of the position embedding before that of position 0 (RoBERTa and its kin: padding id + 1)."""
    embedding_width: int = 0
    """Features of the embeddings, which a linear layer maps to the width; 0 for the width, without that layer."""
    groups: int = 0
    """Blocks with parameters of their own, each shared by consecutive layers (ALBERT); 0 for one block a layer."""
    token_types: int = 2
    """Rows of the token-type embedding: the first, or those that a batch names; 0 for none."""
    rope_base: float = 0.0
    """Base of rotary positions in layers without a window; 0 for learned positions."""
    local_rope_base: float = 0.0
    """Base of rotary positions in layers with a window."""
    window: int = 0
    """How many tokens to either side a layer with a window sees; 0 for no such layers."""
    global_every: int = 1
    """With a window: layers 0, g, 2g ... see the whole text. At most the depth, to which larger values are cut."""
    pre_norm: bool = False
    """Normalise before attention and MLP (but not before the first attention), and once at the end."""
    gated: bool = False
    """Gated MLP, activation(gate) * up."""
    activation: str = "gelu"
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    norm_eps: float = 1e-12
    init_std: float = 0.02
    """Standard deviation of initial kernels and embeddings."""
    embedding_dropout: float = 0.1
    """Rate, after the embeddings."""
    attention_dropout: float = 0.1
    """Rate, on the attention probabilities."""
    attention_output_dropout: float = 0.1
    """Rate, on what attention adds to the residual stream."""
    mlp_output_dropout: float = 0.1
    """Rate, on what the MLP adds to the residual stream."""
    mlp_dropout: float = 0.0
    """Rate, inside the MLP."""
    dtype: str = "float32"
    """Of the computation; parameters stay float32."""
    remat: str = "none"
    """What the backward pass recomputes, a name of remat.REMAT."""
    unroll: int = 0
    """Blocks per loop iteration; 0 for all on CPU and 1 elsewhere."""

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.width, self.depth, self.heads, self.mlp_width, self.max_positions) < 1:
            raise InputError(f"every size of an encoder must be at least 1: {self}")
        if self.width % self.heads:
            raise InputError(
                f"{self.heads} heads do not divide a width of {self.width}; choose another number of heads"
            )
        if self.groups > self.depth:
            raise InputError(f"{self.groups} groups for {self.depth} layers; choose at most one group a layer")
        if self.rope_base and self.width // self.heads % 2:
            raise InputError(f"rotary positions need heads of even width, not {self.width // self.heads}; choose fewer")
        object.__setattr__(self, "global_every", min(self.global_every, self.depth))

    @property
    def learned_positions(self) -> int:
        """Rows of the position embedding; 0 for none."""
        return 0 if self.rope_base else self.max_positions + self.position_offset


class Attention(nnx.Module):
    """Self-attention of one block."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        def project() -> Dense:
            return Dense(c.width, c.width, bias=c.attention_bias, std=c.init_std, rngs=rngs)

        self.q, self.k, self.v, self.out = project(), project(), project(), project()
        self.config = c

    def __call__(
        self, x_BTD: jax.Array, tokens: Tokens, window: jax.Array, rope_base: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        c = self.config
        q, k, v = (part(x_BTD).reshape(*x_BTD.shape[:2], c.heads, -1) for part in (self.q, self.k, self.v))
        if c.rope_base:
            q, k = rope(q, tokens.positions_BT, rope_base), rope(k, tokens.positions_BT, rope_base)
        y_BTNH = attention(
            q, k, v, tokens, tokens,
            causal=False, window=window if c.window else None, dropout_rate=c.attention_dropout, dropout_key=key,
            backend="auto",
        )  # fmt: skip
        return self.out(y_BTNH.reshape(x_BTD.shape))


def _same(x: jax.Array) -> jax.Array:
    return x


class Block(nnx.Module):
    """One layer. `bare` (bool scalar) marks the layer whose attention has no norm before it."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        self.attn = Attention(c, rngs)
        self.mlp = MLP(
            c.width, c.mlp_width, bias=c.mlp_bias, gated=c.gated, activation=c.activation,
            std=c.init_std, out_std=c.init_std, dropout=c.mlp_dropout, rngs=rngs,
        )  # fmt: skip
        alone = c.pre_norm and c.depth == 1  # then no layer has a norm before its attention
        self.attn_norm = _same if alone else LayerNorm(c.width, bias=c.norm_bias, eps=c.norm_eps)
        self.mlp_norm = LayerNorm(c.width, bias=c.norm_bias, eps=c.norm_eps)
        self.config = c

    def __call__(
        self,
        x: jax.Array,
        tokens: Tokens,
        window: jax.Array,
        rope_base: jax.Array,
        bare: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        c, x = self.config, cut_as_residual(x)
        probs, attn, inner, mlp = (None,) * 4 if key is None else jax.random.split(key, 4)
        if c.pre_norm:
            before = gather(jnp.where(bare, x, self.attn_norm(x)))
            y = scatter(self.attn(before, tokens, window, rope_base, probs))
            x = x + dropout(y, c.attention_output_dropout, attn)
            return x + dropout(scatter(self.mlp(gather(self.mlp_norm(x)), inner)), c.mlp_output_dropout, mlp)
        y = scatter(self.attn(gather(x), tokens, window, rope_base, probs))
        x = self.attn_norm(x + dropout(y, c.attention_output_dropout, attn))
        return self.mlp_norm(x + dropout(scatter(self.mlp(gather(x), inner)), c.mlp_output_dropout, mlp))


def position_rows(batch: Batch, offset: int) -> jax.Array:
    """Rows of the position embedding, int32 [B, T]: the positions plus the offset, which is RoBERTa's padding id + 1.

    RoBERTa gives a padding id inside a text the row of that id, and does not count it in the positions of the tokens
    after it (`create_position_ids_from_input_ids` of transformers).
    """
    if not offset:
        return batch.positions_BT
    padding_BT = ((batch.tokens_BT == offset - 1) & (batch.segments_BT > 0)).astype(jnp.int32)
    seen_BT = jnp.cumsum(padding_BT, axis=1)
    start_BT = jnp.arange(padding_BT.shape[1])[None] - batch.positions_BT  # of the text that a token is in
    before_BT = jnp.take_along_axis(seen_BT - padding_BT, start_BT, axis=1)
    return jnp.where(padding_BT > 0, offset - 1, batch.positions_BT + offset - (seen_BT - before_BT))


_FEATURES = ("fsdp", "tensor")
"""The axes of the mesh along which the features of the embeddings lie."""


class Embeddings(nnx.Module):
    """Token embeddings, plus positions and the first token type where the configuration has them; normalised."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        width = c.embedding_width or c.width

        def table(n: int) -> Embed | None:
            return Embed(n, width, std=c.init_std, rngs=rngs) if n else None

        self.tokens = Embed(c.vocab_size, width, std=c.init_std, rngs=rngs)
        self.positions = table(c.learned_positions)
        self.types = table(c.token_types)
        self.norm = LayerNorm(width, bias=c.norm_bias, eps=c.norm_eps)
        self.project = Dense(width, c.width, std=c.init_std, rngs=rngs) if c.embedding_width else None
        self.config = c

    def __call__(self, batch: Batch, key: jax.Array | None) -> jax.Array:
        x_BTD = self.tokens(batch.tokens_BT, _FEATURES)
        if self.types is not None and batch.types_BT is not None:
            x_BTD += self.types(batch.types_BT, _FEATURES)
        elif self.types is not None:
            x_BTD += jnp.broadcast_to(self.types.embedding[0], x_BTD.shape)
        if self.positions is not None:
            x_BTD += self.positions(position_rows(batch, self.config.position_offset), _FEATURES)
        x_BTD = dropout(self.norm(x_BTD).astype(self.config.dtype), self.config.embedding_dropout, key)
        return x_BTD if self.project is None else self.project(x_BTD)


class Encoder(nnx.Module):
    """Batch -> hidden_BTD in the dtype of the computation."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs)
        self.blocks = stack(lambda rngs: Block(config, rngs), config.groups or config.depth, rngs)
        self.norm = LayerNorm(config.width, bias=config.norm_bias, eps=config.norm_eps) if config.pre_norm else None
        self.config = config

    @property
    def limits(self) -> Limits:
        """What mesh axes must divide besides the parameters' axes."""
        return (("tensor", "heads", self.config.heads),)

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        c, layers = self.config, jnp.arange(self.config.depth)
        embed_key, keys = None, None
        if key is not None:
            embed_key, stack_key = jax.random.split(key)
            keys = jax.random.split(stack_key, c.depth)
        everything = layers % c.global_every == 0
        window = jnp.where(everything, c.max_positions, c.window)
        rope_base = jnp.where(everything, c.rope_base, c.local_rope_base)
        tokens = jax.tree.map(lambda x: jnp.broadcast_to(x, (c.depth, *x.shape)), Tokens.of(batch))
        per_layer = (tokens, window, rope_base, layers == 0, keys)
        x_BTD = self.embeddings(batch, embed_key)
        order = [int(layer / (c.depth / c.groups)) for layer in range(c.depth)] if c.groups else None
        x_BTD = run_stack(self.blocks, x_BTD, per_layer, remat=c.remat, unroll=c.unroll, order=order)
        x_BTD = cut_as_residual(x_BTD)
        return gather(x_BTD if self.norm is None else self.norm(x_BTD))

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """hidden_BTD, and no metrics."""
        return self(batch, key), {}


SHARDING: Rules = (
    (r"embeddings\.(tokens|positions|types)\.embedding", P(None, _FEATURES)),
    (r"embeddings\.project\.kernel", P("fsdp", "tensor")),
    (r"embeddings\.project\.bias", P("fsdp")),
    (r"blocks\.attn\.(q|k|v)\.kernel", P(None, "fsdp", "tensor")),
    (r"blocks\.attn\.(q|k|v)\.bias", P(None, ("tensor", "fsdp"))),
    (r"blocks\.attn\.out\.kernel", P(None, "tensor", "fsdp")),
    (r"blocks\.mlp\.(up|gate)\.kernel", P(None, "fsdp", "tensor")),
    (r"blocks\.mlp\.(up|gate)\.bias", P(None, ("tensor", "fsdp"))),
    (r"blocks\.mlp\.down\.kernel", P(None, "tensor", "fsdp")),
    (r"blocks\.(attn\.out|mlp\.down)\.bias", P(None, "fsdp")),
    (r"blocks\.\w+_norm\.(scale|bias)", P(None, "fsdp")),
    (r"(embeddings\.)?norm\.(scale|bias)", P("fsdp")),
)
