"""GPT-2: learned positions, queries, keys and values in one tensor, kernels as ours."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import ACTIVATIONS, Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, conv1d, embedding, linear, norm
from jaxllm.models.decoder_config import Config

_LAYER = "transformer.h.{layer}."


def _table(c: Config) -> Table:
    rules = (
        *embedding("transformer.wte", "embeddings.tokens"),
        *embedding("transformer.wpe", "embeddings.positions"),
        *norm(f"{_LAYER}ln_1", "blocks.attn_norm"),
        *conv1d(f"{_LAYER}attn.c_attn", "blocks.attn.q", "blocks.attn.k", "blocks.attn.v"),
        *conv1d(f"{_LAYER}attn.c_proj", "blocks.attn.out"),
        *norm(f"{_LAYER}ln_2", "blocks.mlp_norm"),
        *conv1d(f"{_LAYER}mlp.c_fc", "blocks.mlp.up"),
        *conv1d(f"{_LAYER}mlp.c_proj", "blocks.mlp.down"),
        *norm("transformer.ln_f", "norm"),
        *linear("lm_head", "unembed"),
    )
    # The causal mask was once saved with the weights, and a tied head sometimes is.
    ignore = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", *((r"lm_head\.weight",) if c.tied else ()))
    return Table(rules, prefix="transformer.", ignore=ignore)


def _read(fields: Fields) -> Config:
    fields.only("scale_attn_by_inverse_layer_idx", False)
    # Scores are always float32 here; a summary is for other tasks.
    fields.skip("reorder_and_upcast_attn", *(name for name in fields.values if name.startswith("summary_")))
    width = fields.get("n_embd", int)
    return Config(
        vocab_size=fields.get("vocab_size", int),
        width=width,
        depth=fields.get("n_layer", int),
        heads=fields.get("n_head", int),
        mlp_width=fields.get_or("n_inner", 4 * width, int),
        max_positions=fields.get("n_positions", int),
        rope_base=0.0,
        norm="layer",
        norm_eps=fields.get("layer_norm_epsilon", float),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation=fields.choice("activation_function", ACTIVATIONS),
        tied=fields.get_or("tie_word_embeddings", True, bool),
        attention_scale=0.0 if fields.get("scale_attn_weights", bool) else 1.0,
        init_std=fields.get("initializer_range", float),
        embedding_dropout=fields.get("embd_pdrop", float),
        attention_dropout=fields.get("attn_pdrop", float),
        output_dropout=fields.get("resid_pdrop", float),
    )


def _write(c: Config) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_embd": c.width,
        "n_layer": c.depth,
        "n_head": c.heads,
        "n_inner": c.mlp_width,
        "n_positions": c.max_positions,
        "layer_norm_epsilon": c.norm_eps,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(c.activation, c.activation),
        "tie_word_embeddings": c.tied,
        "scale_attn_weights": c.attention_scale != 1.0,
        "initializer_range": c.init_std,
        "embd_pdrop": c.embedding_dropout,
        "attn_pdrop": c.attention_dropout,
        "resid_pdrop": c.output_dropout,
    }


FAMILIES: dict[str, Family[Config]] = {"gpt2": Family("GPT2LMHeadModel", _read, _write, _table)}
