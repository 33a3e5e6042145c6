"""GPT-2 (Radford et al. 2019): the names of its tensors and fields on disk.

Queries, keys and values are one tensor, and kernels are [in, out] as ours are.
"""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import Family, Fields, Names, read_fields, write_fields
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


NAMES: Names = {
    "vocab_size": "vocab_size", "width": "n_embd", "depth": "n_layer", "heads": "n_head",
    "max_positions": "n_positions", "norm_eps": "layer_norm_epsilon", "activation": "activation_function",
    "init_std": "initializer_range", "embedding_dropout": "embd_pdrop", "attention_dropout": "attn_pdrop",
    "output_dropout": "resid_pdrop",
}  # fmt: skip


def _read(fields: Fields) -> Config:
    fields.only("scale_attn_by_inverse_layer_idx", False)
    # Scores are always float32 here; a summary is for other tasks.
    fields.skip("reorder_and_upcast_attn", *(name for name in fields.values if name.startswith("summary_")))
    own = read_fields(fields, NAMES, Config)
    return Config(
        **own,
        mlp_width=fields.get_or("n_inner", 4 * own["width"], int),
        rope_base=0.0,
        norm="layer",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        tied=fields.get_or("tie_word_embeddings", True, bool),
        attention_scale=0.0 if fields.get("scale_attn_weights", bool) else 1.0,
    )


def _write(c: Config) -> dict[str, Any]:
    return {
        **write_fields(c, NAMES),
        "n_inner": c.mlp_width,
        "tie_word_embeddings": c.tied,
        "scale_attn_weights": c.attention_scale != 1.0,
    }


FAMILIES: dict[str, Family[Config]] = {"gpt2": Family("GPT2LMHeadModel", _read, _write, _table)}
