"""DistilBERT (Sanh et al. 2019): BERT without token types, and without dropout after attention."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.bert import OLD_NORMS
from jaxllm.hf.config import ACTIVATION_NAMES, ACTIVATIONS, Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.only("sinusoidal_pos_embds", False)
    f.skip("qa_dropout", "seq_classif_dropout", "tie_weights_")
    rate = f.get("dropout", float)
    config = encoder.Config(
        vocab_size=f.get("vocab_size", int),
        width=f.get("dim", int),
        depth=f.get("n_layers", int),
        heads=f.get("n_heads", int),
        mlp_width=f.get("hidden_dim", int),
        max_positions=f.get("max_position_embeddings", int),
        token_types=0,
        activation=f.choice("activation", ACTIVATIONS),
        init_std=f.get("initializer_range", float),
        embedding_dropout=rate,
        attention_dropout=f.get("attention_dropout", float),
        attention_output_dropout=0.0,
        mlp_output_dropout=rate,
    )
    return TaggerConfig(config, (), classifier_dropout=rate)


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    c = config.encoder
    return {
        "vocab_size": c.vocab_size,
        "dim": c.width,
        "n_layers": c.depth,
        "n_heads": c.heads,
        "hidden_dim": c.mlp_width,
        "max_position_embeddings": c.max_positions,
        "activation": ACTIVATION_NAMES[c.activation],
        "initializer_range": c.init_std,
        "dropout": c.mlp_output_dropout,
        "attention_dropout": c.attention_dropout,
    }


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
