"""ALBERT (Lan et al. 2019): layers that share parameters, and embeddings narrower than the residual stream.

A group of layers is one tensor on disk, and one row of a stacked parameter here, whose gradient is the sum over its
layers. Groups of several different layers (`inner_group_num`), which no published model has, are refused.
"""

from __future__ import annotations

from typing import Any

from jaxllm.hf.bert import OLD_NORMS
from jaxllm.hf.config import Fields, Names, read_fields, write_fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError

NAMES: Names = {
    "vocab_size": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "groups": "num_hidden_groups",
    "heads": "num_attention_heads", "mlp_width": "intermediate_size", "max_positions": "max_position_embeddings",
    "embedding_width": "embedding_size", "token_types": "type_vocab_size", "activation": "hidden_act",
    "norm_eps": "layer_norm_eps", "init_std": "initializer_range", "embedding_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob", "attention_output_dropout": "hidden_dropout_prob",
}  # fmt: skip


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.only("inner_group_num", 1)
    own = read_fields(f, NAMES, encoder.Config)
    for ours in ("groups", "embedding_width", "token_types"):
        if own[ours] < 1:
            raise InputError(f"{f.where}: {NAMES[ours]} is {own[ours]}, wanted at least 1; use another checkpoint")
    rate = f.get_or("classifier_dropout_prob", own["embedding_dropout"], float)
    return TaggerConfig(encoder.Config(**own, mlp_output_dropout=0.0), (), classifier_dropout=rate)


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    return {**write_fields(config.encoder, NAMES), "classifier_dropout_prob": config.classifier_dropout}


_LAYER = "albert.encoder.albert_layer_groups.{layer}.albert_layers.0"

TABLE = Table(
    (
        *embedding("albert.embeddings.word_embeddings", "embeddings.tokens"),
        *embedding("albert.embeddings.position_embeddings", "embeddings.positions"),
        *embedding("albert.embeddings.token_type_embeddings", "embeddings.types"),
        *norm("albert.embeddings.LayerNorm", "embeddings.norm"),
        *linear("albert.encoder.embedding_hidden_mapping_in", "embeddings.project"),
        *linear(f"{_LAYER}.attention.query", "blocks.attn.q"),
        *linear(f"{_LAYER}.attention.key", "blocks.attn.k"),
        *linear(f"{_LAYER}.attention.value", "blocks.attn.v"),
        *linear(f"{_LAYER}.attention.dense", "blocks.attn.out"),
        *norm(f"{_LAYER}.attention.LayerNorm", "blocks.attn_norm"),
        *linear(f"{_LAYER}.ffn", "blocks.mlp.up"),
        *linear(f"{_LAYER}.ffn_output", "blocks.mlp.down"),
        *norm(f"{_LAYER}.full_layer_layer_norm", "blocks.mlp_norm"),
        *linear("classifier", "classifier"),
    ),
    prefix="albert.",
    ignore=(
        r"albert\.embeddings\.position_ids",
        r"albert\.pooler\..*",
        r"(predictions|sop_classifier|qa_outputs)\..*",
    ),
    renames=OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {"albert": Family("AlbertForTokenClassification", read, write, lambda _: TABLE)}
