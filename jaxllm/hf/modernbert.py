"""ModernBERT (Warner et al. 2024): the names of its tensors and fields on disk."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import Family, Fields, Names, read_fields, write_fields
from jaxllm.hf.table import Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def _kinds(depth: int, every: int) -> list[str]:
    return [_LOCAL if layer % every else _GLOBAL for layer in range(depth)]


NAMES: Names = {
    "vocab_size": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
    "mlp_width": "intermediate_size", "max_positions": "max_position_embeddings", "activation": "hidden_activation",
    "attention_bias": "attention_bias", "mlp_bias": "mlp_bias", "norm_bias": "norm_bias", "norm_eps": "norm_eps",
    "init_std": "initializer_range", "embedding_dropout": "embedding_dropout", "attention_dropout": "attention_dropout",
    "mlp_dropout": "mlp_dropout",
}  # fmt: skip
HEAD_NAMES: Names = {
    "classifier_dropout": "classifier_dropout",
    "transform_bias": "classifier_bias",
    "transform_activation": "classifier_activation",
}


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
    own = read_fields(f, NAMES, encoder.Config)
    config = encoder.Config(
        **own,
        token_types=0,
        rope_base=float(ropes[_GLOBAL]["rope_theta"]),
        local_rope_base=float(ropes[_LOCAL]["rope_theta"]),
        window=f.get("local_attention", int) // 2,
        global_every=every,
        pre_norm=True,
        gated=True,
        attention_output_dropout=own["attention_dropout"],
        mlp_output_dropout=0.0,
    )
    return TaggerConfig(config, (), transform=True, **read_fields(f, HEAD_NAMES, TaggerConfig))


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    c = config.encoder
    ropes = {_GLOBAL: c.rope_base, _LOCAL: c.local_rope_base}
    return {
        **write_fields(c, NAMES),
        **write_fields(config, HEAD_NAMES),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in ropes.items()},
        "local_attention": 2 * c.window,
        "layer_types": _kinds(c.depth, c.global_every),
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
