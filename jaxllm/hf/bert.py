"""BERT (Devlin et al. 2018), and what RoBERTa shares with it."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import ACTIVATION_NAMES, ACTIVATIONS, Fields
from jaxllm.hf.family import Family
from jaxllm.hf.table import Rule, Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError


def rules(prefix: str) -> tuple[Rule, ...]:
    """The names of BERT's tensors below this prefix, and of the classifier beside it."""
    layer = f"{prefix}encoder.layer.{{layer}}"
    return (
        *embedding(f"{prefix}embeddings.word_embeddings", "embeddings.tokens"),
        *embedding(f"{prefix}embeddings.position_embeddings", "embeddings.positions"),
        *embedding(f"{prefix}embeddings.token_type_embeddings", "embeddings.types"),
        *norm(f"{prefix}embeddings.LayerNorm", "embeddings.norm"),
        *linear(f"{layer}.attention.self.query", "blocks.attn.q"),
        *linear(f"{layer}.attention.self.key", "blocks.attn.k"),
        *linear(f"{layer}.attention.self.value", "blocks.attn.v"),
        *linear(f"{layer}.attention.output.dense", "blocks.attn.out"),
        *norm(f"{layer}.attention.output.LayerNorm", "blocks.attn_norm"),
        *linear(f"{layer}.intermediate.dense", "blocks.mlp.up"),
        *linear(f"{layer}.output.dense", "blocks.mlp.down"),
        *norm(f"{layer}.output.LayerNorm", "blocks.mlp_norm"),
        *linear("classifier", "classifier"),
    )


OLD_NORMS = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
"""How TensorFlow's checkpoints called them."""


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.only("position_embedding_type", "absolute")
    output_dropout, types = f.get("hidden_dropout_prob", float), f.get("type_vocab_size", int)
    if types < 1:
        raise InputError(f"{f.where}: type_vocab_size is {types}, wanted at least 1; use another checkpoint")
    config = encoder.Config(
        vocab_size=f.get("vocab_size", int),
        width=f.get("hidden_size", int),
        depth=f.get("num_hidden_layers", int),
        heads=f.get("num_attention_heads", int),
        mlp_width=f.get("intermediate_size", int),
        max_positions=f.get("max_position_embeddings", int),
        token_types=types,
        activation=f.choice("hidden_act", ACTIVATIONS),
        norm_eps=f.get("layer_norm_eps", float),
        init_std=f.get("initializer_range", float),
        embedding_dropout=output_dropout,
        attention_dropout=f.get("attention_probs_dropout_prob", float),
        attention_output_dropout=output_dropout,
        mlp_output_dropout=output_dropout,
    )
    return TaggerConfig(config, (), classifier_dropout=f.get_or("classifier_dropout", output_dropout, float))


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    c = config.encoder
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.max_positions,
        "type_vocab_size": c.token_types,
        "hidden_act": ACTIVATION_NAMES[c.activation],
        "layer_norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "hidden_dropout_prob": c.mlp_output_dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "classifier_dropout": config.classifier_dropout,
    }


TABLE = Table(
    rules("bert."),
    prefix="bert.",
    ignore=(r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\..*", r"qa_outputs\..*"),
    renames=OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {"bert": Family("BertForTokenClassification", read, write, lambda _: TABLE)}
