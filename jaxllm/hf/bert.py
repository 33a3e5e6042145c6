"""BERT (Devlin et al. 2018): names of its tensors and fields on disk, which RoBERTa, CamemBERT and ELECTRA share."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import Fields, Names, read_fields, write_fields
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
"""Names of scale and bias in checkpoints that were converted from TensorFlow."""


NAMES: Names = {
    "vocab_size": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
    "mlp_width": "intermediate_size", "max_positions": "max_position_embeddings", "token_types": "type_vocab_size",
    "activation": "hidden_act", "norm_eps": "layer_norm_eps", "init_std": "initializer_range",
    "embedding_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob",
    "attention_output_dropout": "hidden_dropout_prob", "mlp_output_dropout": "hidden_dropout_prob",
}  # fmt: skip


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.only("position_embedding_type", "absolute")
    config = encoder.Config(**read_fields(f, NAMES, encoder.Config))
    if config.token_types < 1:
        raise InputError(
            f"{f.where}: type_vocab_size is {config.token_types}, wanted at least 1; use another checkpoint"
        )
    rate = f.get_or("classifier_dropout", config.mlp_output_dropout, float)
    return TaggerConfig(config, (), classifier_dropout=rate)


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads."""
    return {**write_fields(config.encoder, NAMES), "classifier_dropout": config.classifier_dropout}


TABLE = Table(
    rules("bert."),
    prefix="bert.",
    ignore=(r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\..*", r"qa_outputs\..*"),
    renames=OLD_NORMS,
    heads=("classifier",),
)

FAMILIES = {"bert": Family("BertForTokenClassification", read, write, lambda _: TABLE)}
