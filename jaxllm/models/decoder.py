"""The causal decoder: GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma, OLMo 2, Mixtral, Qwen3-MoE, by configuration.

All families share one block. The configuration says where its norms are, how positions are encoded, and how far each
layer sees. Training and generation run the same code; generation passes a cache of keys and values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.axes import cut_as_residual, gather, scatter
from jaxllm.models.attention import Tokens, attention
from jaxllm.models.cache import Cache
from jaxllm.models.decoder_config import PRESETS, Config
from jaxllm.models.few_rows import Transposed, few, transposed
from jaxllm.models.layers import (
    MLP,
    Dense,
    Embed,
    LayerNorm,
    RMSNorm,
    dense,
    dropout,
    rotate,
    scan_stack,
    soft_cap,
    stack,
)
from jaxllm.models.moe import Experts, Load, balance
from jaxllm.params import Limits, Rules
from jaxllm.types import Batch, Metrics

__all__ = ["PRESETS", "SHARDING", "Config", "Decoder"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """What differs by layer: stacked along the layer axis, of which each block gets its slice."""

    index: jax.Array
    window: jax.Array
    """How many positions back it sees."""
    frequency_H: jax.Array
    """Rotary frequencies, [H / 2], in radians per position."""
    key: jax.Array | None
    """For dropout."""


def make_norm(c: Config, width: int) -> LayerNorm | RMSNorm:
    """LayerNorm or RMSNorm, as the configuration says."""
    if c.norm == "layer":
        return LayerNorm(width, eps=c.norm_eps)
    return RMSNorm(width, eps=c.norm_eps, offset=c.norm_offset)


class Attention(nnx.Module):
    """Causal self-attention of one block."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        def project(heads: int) -> Dense:
            return Dense(c.width, heads * c.H, bias=c.qkv_bias, std=c.init_std, rngs=rngs)

        self.q, self.k, self.v = project(c.heads), project(c.K), project(c.K)
        self.out = Dense(c.heads * c.H, c.width, bias=c.out_bias, std=c.out_std, rngs=rngs)
        q_width, k_width = {"none": (0, 0), "head": (c.H, c.H), "full": (c.heads * c.H, c.K * c.H)}[c.qk_norm]
        self.q_norm = make_norm(c, q_width) if q_width else None
        self.k_norm = make_norm(c, k_width) if k_width else None
        self.config = c

    def __call__(
        self, x_BTD: jax.Array, tokens: Tokens, layer: Layer, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config

        def heads(x: jax.Array, norm: LayerNorm | RMSNorm | None) -> jax.Array:
            x = x if norm is None or c.qk_norm == "head" else norm(x)
            x = x.reshape(*x.shape[:2], -1, c.H)
            return x if norm is None or c.qk_norm == "full" else norm(x)

        q, k = heads(self.q(x_BTD), self.q_norm), heads(self.k(x_BTD), self.k_norm)
        v = heads(self.v(x_BTD), None)
        if c.rope_base:
            q, k = (rotate(x, tokens.positions_BT, layer.frequency_H) for x in (q, k))
        seen = tokens
        if cache is not None:
            cache, k, v, seen = cache.put(layer.index, k, v, tokens)
        y_BTNH = attention(
            q, k, v, tokens, seen, causal=True,
            window=layer.window if any(c.windows) else None, windows=tuple(sorted(set(c.windows_L().tolist()))),
            scale=(c.attention_scale or c.H**-0.5) * c.rope_scaling.amplitude**2, softcap=c.attention_softcap,
            dropout_rate=c.attention_dropout, dropout_key=key, backend=c.backend,
        )  # fmt: skip
        return self.out(y_BTNH.reshape(*x_BTD.shape[:2], -1)), cache


class Block(nnx.Module):
    """One layer."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        def norm(place: str) -> LayerNorm | RMSNorm | None:
            return make_norm(c, c.width) if c.norm_place in (place, "both") else None

        self.attn = Attention(c, rngs)
        self.mlp = None if c.experts else MLP(
            c.width, c.mlp_width, bias=c.mlp_bias, gated=c.gated, activation=c.activation,
            std=c.init_std, out_std=c.out_std, rngs=rngs,
        )  # fmt: skip
        self.experts = Experts(c, out_std=c.out_std, rngs=rngs) if c.experts else None
        self.attn_norm, self.attn_post_norm = norm("before"), norm("after")
        self.mlp_norm, self.mlp_post_norm = norm("before"), norm("after")
        self.config = c

    def __call__(
        self, x_BTD: jax.Array, tokens: Tokens, layer: Layer, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None, Load | None]:
        def add(x: jax.Array, y: jax.Array, norm: LayerNorm | RMSNorm | None, key: jax.Array | None) -> jax.Array:
            return x + dropout(y if norm is None else norm(y), self.config.output_dropout, key)

        probs_key, attn_key, mlp_key = (None,) * 3 if layer.key is None else jax.random.split(layer.key, 3)
        before = x_BTD if self.attn_norm is None else self.attn_norm(x_BTD)
        y_BTD, cache = self.attn(gather(before), tokens, layer, probs_key, cache)
        x_BTD = add(x_BTD, scatter(y_BTD), self.attn_post_norm, attn_key)
        before, load = x_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD), None
        if self.mlp is not None:
            y_BTD = scatter(self.mlp(gather(before)))
        if self.experts is not None:
            y_BTD, load = self.experts(before, tokens.segments_BT > 0)
        return add(x_BTD, y_BTD, self.mlp_post_norm, mlp_key), cache, load


_TABLE, _KERNEL = P("tensor", "fsdp"), P("fsdp", "tensor")
"""How the embedding and the head's kernel are sharded in the computation. Where the mesh does not divide the vocabulary
they are stored with another sharding (`SHARDING`), and padded with zeros that no result depends on."""


class Embeddings(nnx.Module):
    """Token embeddings, plus position embeddings where positions are learned: [B, T] -> [B, T, D]."""

    def __init__(self, c: Config, rngs: nnx.Rngs):
        self.tokens = Embed(c.vocab_size, c.width, std=c.init_std, cut=_TABLE, rngs=rngs)
        self.positions = None if c.rope_base else Embed(c.max_positions, c.width, std=c.init_std, rngs=rngs)
        self.config = c

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, key: jax.Array | None) -> jax.Array:
        c = self.config
        x_BTD = self.tokens(tokens_BT)
        if self.positions is not None:
            x_BTD += self.positions(positions_BT)
        x_BTD = x_BTD.astype(c.dtype) * jnp.asarray(c.embedding_scale, c.dtype)
        return dropout(x_BTD, c.embedding_dropout, key)


class Decoder(nnx.Module):
    """The language model: Batch -> hidden_BTD -> logits of the next token, float32."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs)
        self.blocks = stack(lambda rngs: Block(config, rngs), config.depth, rngs)
        self.norm = make_norm(config, config.width)
        size, std = config.vocab_size, config.init_std
        head = None if config.tied else Dense(config.width, size, bias=False, std=std, cut=_KERNEL, rngs=rngs)
        self.unembed: Dense | Transposed | None = head
        self.config = config

    @property
    def limits(self) -> Limits:
        """What mesh axes must divide besides the parameters' axes."""
        c = self.config
        heads: Limits = (("tensor", "query heads", c.heads), ("tensor", "key and value heads", c.K))
        return (*heads, ("expert", "experts", c.experts)) if c.experts else heads

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """hidden_BTD in the dtype of the computation, and of a mixture of experts the balance loss of its router.

        key: for dropout; None for none.
        """
        tokens = Tokens.of(batch)
        x_BTD, _, load_LE = self._run(batch.tokens_BT, tokens, None, key)
        if load_LE is None:
            return x_BTD, {}
        return x_BTD, {"router_balance": balance(load_LE, tokens.segments_BT > 0, self.config.router_balance)}

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV (any leading axes), float32."""
        if self.unembed is None:
            logits_NV = dense(hidden_ND, self.embeddings.tokens.embedding[...].T, cut=_KERNEL)
        else:
            logits_NV = self.unembed(hidden_ND)
        return soft_cap(logits_NV.astype(jnp.float32), self.config.logit_softcap)

    def unstack(self, rows: int = 0) -> list[Any]:
        """The blocks one by one. A loop that takes them apart once does not copy a layer's weights in each step.

        rows: what each step of the loop multiplies. For few, blocks and head become those of `few_rows`.
        """
        graphdef, params = nnx.split(self.blocks)
        blocks = [nnx.merge(graphdef, jax.tree.map(lambda x: x[i], params)) for i in range(self.config.depth)]  # noqa: B023
        if not few(rows):
            return blocks
        head: Any = self.unembed
        table_VD = self.embeddings.tokens.embedding
        self.unembed = nnx.data(Transposed(table_VD[...]) if head is None else transposed(head))
        return [transposed(block) for block in blocks]

    def extend(
        self, cache: Cache, tokens_BT: jax.Array, tokens: Tokens, blocks: Sequence[Block] = ()
    ) -> tuple[jax.Array, Cache]:
        """hidden_BTD of tokens that continue those in the cache, and the cache with them; T slots must be free.

        blocks: of `unstack`, which a cache with a stack for each layer is for.
        """
        cache = cache.advance(tokens)
        x_BTD, cache, _ = self._run(tokens_BT, tokens, cache, None, blocks)
        return x_BTD, dataclasses.replace(cache, length=cache.length + tokens_BT.shape[1])

    def _run(
        self, tokens_BT: jax.Array, tokens: Tokens, cache: Any, key: jax.Array | None, blocks: Sequence[Block] = ()
    ) -> tuple[jax.Array, Any, Load | None]:
        c = self.config
        embed_key, keys = None, None
        if key is not None:
            embed_key, stack_key = jax.random.split(key)
            keys = jax.random.split(stack_key, c.depth)
        layers = Layer(jnp.arange(c.depth), jnp.asarray(c.windows_L()), jnp.asarray(c.frequencies_LH()), keys)

        def call(block: Block, carry: tuple[jax.Array, Any], layer: Layer) -> tuple[tuple[jax.Array, Any], Any]:
            x_BTD, cache, load = block(cut_as_residual(carry[0]), tokens, layer, carry[1])
            return (x_BTD, cache), load

        x_BTD, load_LE = self.embeddings(tokens_BT, tokens.positions_BT, embed_key), None
        if cache is None or not cache.unstacked:
            (x_BTD, cache), load_LE = scan_stack(
                call, self.blocks, (x_BTD, cache), layers, remat=c.remat, unroll=c.unroll
            )
        else:
            stacks: list[Any] = []
            for i, block in enumerate(blocks or self.unstack()):
                carry = x_BTD, dataclasses.replace(cache, stacks=cache.stacks[i : i + 1])
                (x_BTD, one), _ = call(block, carry, jax.tree.map(lambda x: x[i], layers))  # noqa: B023
                stacks += one.stacks
            cache = dataclasses.replace(cache, stacks=tuple(stacks))
        return gather(self.norm(cut_as_residual(x_BTD))), cache, load_LE


SHARDING: Rules = (
    (r"embeddings\.tokens\.embedding", _TABLE),
    (r"embeddings\.tokens\.embedding", P(None, ("fsdp", "tensor"))),
    (r"embeddings\.positions\.embedding", P(None, "fsdp")),
    (r"unembed\.kernel", _KERNEL),
    (r"unembed\.kernel", P(("fsdp", "tensor"), None)),
    (r"blocks\.attn\.(q|k|v)\.kernel", P(None, "fsdp", "tensor")),
    (r"blocks\.attn\.(q|k|v)\.bias", P(None, ("tensor", "fsdp"))),
    (r"blocks\.attn\.(q|k|v)\.bias", P(None, "tensor")),
    (r"blocks\.attn\.(q|k)_norm\.scale", P(None, "fsdp")),
    (r"blocks\.attn\.(q|k)_norm\.scale", P()),
    (r"blocks\.attn\.out\.kernel", P(None, "tensor", "fsdp")),
    (r"blocks\.mlp\.(up|gate)\.kernel", P(None, "fsdp", "tensor")),
    (r"blocks\.mlp\.(up|gate)\.bias", P(None, ("tensor", "fsdp"))),
    (r"blocks\.mlp\.(up|gate)\.bias", P(None, "tensor")),
    (r"blocks\.mlp\.down\.kernel", P(None, "tensor", "fsdp")),
    (r"blocks\.(attn\.out|mlp\.down)\.bias", P(None, "fsdp")),
    (r"blocks\.experts\.router\.kernel", P(None, "fsdp", None)),
    (r"blocks\.experts\.(up|gate)\.kernel", P(None, "expert", "fsdp", "tensor")),
    (r"blocks\.experts\.down\.kernel", P(None, "expert", "tensor", "fsdp")),
    (r"blocks\.\w+_norm\.(scale|bias)", P(None, "fsdp")),
    (r"norm\.(scale|bias)", P("fsdp")),
)
