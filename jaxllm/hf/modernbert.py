"""ModernBERT (Warner et al. 2024)."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import ACTIVATION_NAMES, ACTIVATIONS, Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def _kinds(depth: int, every: int) -> list[str]:
    return [_LOCAL if layer % every else _GLOBAL for layer in range(depth)]


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.skip("decoder_bias", "classifier_pooling", "deterministic_flash_attn", "sparse_prediction")
    f.skip("sparse_pred_ignore_index", "initializer_cutoff_factor", "reference_compile", "repad_logits_with_grad")
    f.skip("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "position_embedding_type")
    depth, kinds = f.get("num_hidden_layers", int), f.get("layer_types", list)
    every = (*kinds[1:], _GLOBAL).index(_GLOBAL) + 1
    if kinds != _kinds(depth, every):
        raise InputError(
            f"{f.where}: layer_types is {kinds}, supported: every n-th of {depth} layers {_GLOBAL}, from the first"
        )
    ropes = f.get("rope_parameters", dict)
    for kind, rope in ropes.items():
        if kind not in (_GLOBAL, _LOCAL) or rope.keys() - {"rope_type", "rope_theta"} or rope["rope_type"] != "default":
            raise InputError(f"{f.where}: rope_parameters of {kind} is {rope}, supported: rope_type 'default'")
    attention_dropout = f.get("attention_dropout", float)
    config = encoder.Config(
        vocab_size=f.get("vocab_size", int),
        width=f.get("hidden_size", int),
        depth=depth,
        heads=f.get("num_attention_heads", int),
        mlp_width=f.get("intermediate_size", int),
        max_positions=f.get("max_position_embeddings", int),
        token_types=0,
        rope_base=float(ropes[_GLOBAL]["rope_theta"]),
        local_rope_base=float(ropes[_LOCAL]["rope_theta"]),
        window=f.get("local_attention", int) // 2,
        global_every=every,
        pre_norm=True,
        gated=True,
        activation=f.choice("hidden_activation", ACTIVATIONS),
        attention_bias=f.get("attention_bias", bool),
        mlp_bias=f.get("mlp_bias", bool),
        norm_bias=f.get("norm_bias", bool),
        norm_eps=f.get("norm_eps", float),
        init_std=f.get("initializer_range", float),
        embedding_dropout=f.get("embedding_dropout", float),
        attention_dropout=attention_dropout,
        attention_output_dropout=attention_dropout,
        mlp_output_dropout=0.0,
        mlp_dropout=f.get("mlp_dropout", float),
    )
    return TaggerConfig(
        config,
        (),
        classifier_dropout=f.get("classifier_dropout", float),
        transform=True,
        transform_bias=f.get("classifier_bias", bool),
        transform_activation=f.choice("classifier_activation", ACTIVATIONS),
    )


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    c = config.encoder
    ropes = {_GLOBAL: c.rope_base, _LOCAL: c.local_rope_base}
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.max_positions,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in ropes.items()},
        "local_attention": 2 * c.window,
        "layer_types": _kinds(c.depth, c.global_every),
        "hidden_activation": ACTIVATION_NAMES[c.activation],
        "attention_bias": c.attention_bias,
        "mlp_bias": c.mlp_bias,
        "norm_bias": c.norm_bias,
        "norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "embedding_dropout": c.embedding_dropout,
        "attention_dropout": c.attention_dropout,
        "mlp_dropout": c.mlp_dropout,
        "classifier_dropout": config.classifier_dropout,
        "classifier_bias": config.transform_bias,
        "classifier_activation": ACTIVATION_NAMES[config.transform_activation],
    }


_LAYER = "model.layers.{layer}"

TABLE = Table(
    (
        *embedding("model.embeddings.tok_embeddings", "embeddings.tokens"),
        *norm("model.embeddings.norm", "embeddings.norm"),
        *norm(f"{_LAYER}.attn_norm", "blocks.attn_norm", absent=(0,)),
        *linear(f"{_LAYER}.attn.Wqkv", "blocks.attn.q", "blocks.attn.k", "blocks.attn.v"),
        *linear(f"{_LAYER}.attn.Wo", "blocks.attn.out"),
        *norm(f"{_LAYER}.mlp_norm", "blocks.mlp_norm"),
        *linear(f"{_LAYER}.mlp.Wi", "blocks.mlp.gate", "blocks.mlp.up"),
        *linear(f"{_LAYER}.mlp.Wo", "blocks.mlp.down"),
        *norm("model.final_norm", "norm"),
        *linear("head.dense", "transform.dense"),
        *norm("head.norm", "transform.norm"),
        *linear("classifier", "classifier"),
    ),
    prefix="model.",
    ignore=(r"decoder\..*",),
    heads=("transform", "classifier"),
)

FAMILIES = {"modernbert": Family("ModernBertForTokenClassification", read, write, lambda _: TABLE)}
