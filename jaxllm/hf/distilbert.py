"""DistilBERT (Sanh et al. 2019): the names of its tensors and fields on disk.

It is BERT without token types and without dropout after attention.
"""

from __future__ import annotations

from typing import Any

from jaxllm.hf.bert import OLD_NORMS
from jaxllm.hf.config import Fields, Names, read_fields, write_fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig

NAMES: Names = {
    "vocab_size": "vocab_size", "width": "dim", "depth": "n_layers", "heads": "n_heads", "mlp_width": "hidden_dim",
    "max_positions": "max_position_embeddings", "activation": "activation", "init_std": "initializer_range",
    "embedding_dropout": "dropout", "attention_dropout": "attention_dropout", "mlp_output_dropout": "dropout",
}  # fmt: skip


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.only("sinusoidal_pos_embds", False)
    f.skip("qa_dropout", "seq_classif_dropout", "tie_weights_")
    own = read_fields(f, NAMES, encoder.Config)
    config = encoder.Config(**own, token_types=0, attention_output_dropout=0.0)
    return TaggerConfig(config, (), classifier_dropout=config.mlp_output_dropout)


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    return write_fields(config.encoder, NAMES)


_LAYER = "distilbert.transformer.layer.{layer}"

TABLE = Table(
    (
        *embedding("distilbert.embeddings.word_embeddings", "embeddings.tokens"),
        *embedding("distilbert.embeddings.position_embeddings", "embeddings.positions"),
        *norm("distilbert.embeddings.LayerNorm", "embeddings.norm"),
        *linear(f"{_LAYER}.attention.q_lin", "blocks.attn.q"),
        *linear(f"{_LAYER}.attention.k_lin", "blocks.attn.k"),
        *linear(f"{_LAYER}.attention.v_lin", "blocks.attn.v"),
        *linear(f"{_LAYER}.attention.out_lin", "blocks.attn.out"),
        *norm(f"{_LAYER}.sa_layer_norm", "blocks.attn_norm"),
        *linear(f"{_LAYER}.ffn.lin1", "blocks.mlp.up"),
        *linear(f"{_LAYER}.ffn.lin2", "blocks.mlp.down"),
        *norm(f"{_LAYER}.output_layer_norm", "blocks.mlp_norm"),
        *linear("classifier", "classifier"),
    ),
    prefix="distilbert.",
    ignore=(
        r"distilbert\.embeddings\.position_ids",
        r"vocab_(transform|layer_norm|projector)\..*",
        r"pre_classifier\..*",
        r"qa_outputs\..*",
    ),
    renames=OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {"distilbert": Family("DistilBertForTokenClassification", read, write, lambda _: TABLE)}
