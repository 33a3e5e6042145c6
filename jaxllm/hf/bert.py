"""BERT and the encoders that keep most of its names and fields on disk: RoBERTa and kin, ELECTRA, ALBERT, DistilBERT.

BERT: Devlin et al. 2018. RoBERTa: Liu et al. 2019. XLM-RoBERTa: Conneau et al. 2019. CamemBERT: Martin et al. 2019.
ELECTRA's discriminator: Clark et al. 2020. ALBERT: Lan et al. 2019. DistilBERT: Sanh et al. 2019.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxllm.hf.config import Family, Fields, Names, read_fields, write_fields
from jaxllm.hf.table import Rule, Table, embedding, linear, norm
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError


def embeddings(prefix: str) -> tuple[Rule, ...]:
    """The names of the embeddings below this prefix."""
    return (
        *embedding(f"{prefix}embeddings.word_embeddings", "embeddings.tokens"),
        *embedding(f"{prefix}embeddings.position_embeddings", "embeddings.positions"),
        *embedding(f"{prefix}embeddings.token_type_embeddings", "embeddings.types"),
        *norm(f"{prefix}embeddings.LayerNorm", "embeddings.norm"),
    )


def layers(prefix: str, projections: Mapping[str, str]) -> tuple[Rule, ...]:
    """The names of the layers below this prefix; projections: of the attention, their names to ours."""
    layer = f"{prefix}encoder.layer.{{layer}}"
    attention = [linear(f"{layer}.attention.self.{name}", f"blocks.attn.{ours}") for name, ours in projections.items()]
    return (
        *(rule for rules in attention for rule in rules),
        *linear(f"{layer}.attention.output.dense", "blocks.attn.out"),
        *norm(f"{layer}.attention.output.LayerNorm", "blocks.attn_norm"),
        *linear(f"{layer}.intermediate.dense", "blocks.mlp.up"),
        *linear(f"{layer}.output.dense", "blocks.mlp.down"),
        *norm(f"{layer}.output.LayerNorm", "blocks.mlp_norm"),
    )


def tagger_table(prefix: str, rules: tuple[Rule, ...], *ignore: str) -> Table:
    """The table of token classifiers. ignore: names of buffers and other heads, beside those that all of these have."""
    return Table(
        rules,
        prefix=prefix,
        ignore=(re.escape(f"{prefix}embeddings.position_ids"), r"qa_outputs\..*", *ignore),
        renames=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),  # in checkpoints converted from TensorFlow
        heads=("classifier",),
    )


def _rules(prefix: str) -> tuple[Rule, ...]:
    own = layers(prefix, {"query": "q", "key": "k", "value": "v"})
    return (*embeddings(prefix), *own, *linear("classifier", "classifier"))


_SHARED: Names = {
    "vocab_size": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
    "mlp_width": "intermediate_size", "max_positions": "max_position_embeddings", "token_types": "type_vocab_size",
    "activation": "hidden_act", "norm_eps": "layer_norm_eps", "init_std": "initializer_range",
    "embedding_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob",
    "attention_output_dropout": "hidden_dropout_prob",
}  # fmt: skip
NAMES: Names = {**_SHARED, "mlp_output_dropout": "hidden_dropout_prob"}


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


_BERT = tagger_table("bert.", _rules("bert."), r"bert\.pooler\..*", r"cls\..*")

_WHOLE_TEXTS = r"classifier\.(dense|out_proj)\..*"
"""Of a classifier of whole texts."""


def _read_roberta(f: Fields) -> TaggerConfig:
    """BERT's, whose positions start after the padding id."""
    config, offset = read(f), f.get("pad_token_id", int) + 1
    rows = config.encoder.max_positions
    body = dataclasses.replace(config.encoder, position_offset=offset, max_positions=rows - offset)
    return dataclasses.replace(config, encoder=body)


def _write_roberta(config: TaggerConfig) -> dict[str, Any]:
    c = config.encoder
    fields = write(config) | {"max_position_embeddings": c.max_positions + c.position_offset}
    # No padding id means positions that begin at row 0, which RoBERTa does not have.
    return fields | ({"pad_token_id": c.position_offset - 1} if c.position_offset else {})


_ROBERTA = tagger_table("roberta.", _rules("roberta."), r"roberta\.pooler\..*", r"lm_head\..*", _WHOLE_TEXTS)


def _read_electra(f: Fields) -> TaggerConfig:
    """BERT's, whose embeddings may be narrower than the residual stream."""
    f.skip("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")
    config, width = read(f), f.get("embedding_size", int)
    narrow = width if width != config.encoder.width else 0
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, embedding_width=narrow))


def _write_electra(config: TaggerConfig) -> dict[str, Any]:
    return write(config) | {"embedding_size": config.encoder.embedding_width or config.encoder.width}


_ELECTRA = tagger_table(
    "electra.",
    (*_rules("electra."), *linear("electra.embeddings_project", "embeddings.project")),
    r"(discriminator_predictions|generator_predictions|generator_lm_head|sequence_summary)\..*",
    _WHOLE_TEXTS,
)

_ALBERT_NAMES: Names = {**_SHARED, "groups": "num_hidden_groups", "embedding_width": "embedding_size"}


def _read_albert(f: Fields) -> TaggerConfig:
    """Layers that share parameters, and embeddings narrower than the residual stream.

    A group of layers is one tensor on disk, and one row of a stacked parameter here, whose gradient is the sum over its
    layers. Groups of several different layers (`inner_group_num`), which no published model has, are refused.
    """
    f.only("inner_group_num", 1)
    own = read_fields(f, _ALBERT_NAMES, encoder.Config)
    for ours in ("groups", "embedding_width", "token_types"):
        if own[ours] < 1:
            theirs = _ALBERT_NAMES[ours]
            raise InputError(f"{f.where}: {theirs} is {own[ours]}, wanted at least 1; use another checkpoint")
    rate = f.get_or("classifier_dropout_prob", own["embedding_dropout"], float)
    return TaggerConfig(encoder.Config(**own, mlp_output_dropout=0.0), (), classifier_dropout=rate)


def _write_albert(config: TaggerConfig) -> dict[str, Any]:
    return {**write_fields(config.encoder, _ALBERT_NAMES), "classifier_dropout_prob": config.classifier_dropout}


_GROUP = "albert.encoder.albert_layer_groups.{layer}.albert_layers.0"
_ALBERT = tagger_table(
    "albert.",
    (
        *embeddings("albert."),
        *linear("albert.encoder.embedding_hidden_mapping_in", "embeddings.project"),
        *linear(f"{_GROUP}.attention.query", "blocks.attn.q"),
        *linear(f"{_GROUP}.attention.key", "blocks.attn.k"),
        *linear(f"{_GROUP}.attention.value", "blocks.attn.v"),
        *linear(f"{_GROUP}.attention.dense", "blocks.attn.out"),
        *norm(f"{_GROUP}.attention.LayerNorm", "blocks.attn_norm"),
        *linear(f"{_GROUP}.ffn", "blocks.mlp.up"),
        *linear(f"{_GROUP}.ffn_output", "blocks.mlp.down"),
        *norm(f"{_GROUP}.full_layer_layer_norm", "blocks.mlp_norm"),
        *linear("classifier", "classifier"),
    ),
    r"albert\.pooler\..*",
    r"(predictions|sop_classifier)\..*",
)

_DISTILBERT_NAMES: Names = {
    "vocab_size": "vocab_size", "width": "dim", "depth": "n_layers", "heads": "n_heads", "mlp_width": "hidden_dim",
    "max_positions": "max_position_embeddings", "activation": "activation", "init_std": "initializer_range",
    "embedding_dropout": "dropout", "attention_dropout": "attention_dropout", "mlp_output_dropout": "dropout",
}  # fmt: skip


def _read_distilbert(f: Fields) -> TaggerConfig:
    """Without token types and without dropout after attention."""
    f.only("sinusoidal_pos_embds", False)
    f.skip("qa_dropout", "seq_classif_dropout", "tie_weights_")
    own = read_fields(f, _DISTILBERT_NAMES, encoder.Config)
    config = encoder.Config(**own, token_types=0, attention_output_dropout=0.0)
    return TaggerConfig(config, (), classifier_dropout=config.mlp_output_dropout)


_LAYER = "distilbert.transformer.layer.{layer}"
_DISTILBERT = tagger_table(
    "distilbert.",
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
    r"vocab_(transform|layer_norm|projector)\..*",
    r"pre_classifier\..*",
)

FAMILIES = {
    "bert": Family("BertForTokenClassification", read, write, lambda _: _BERT),
    "roberta": Family("RobertaForTokenClassification", _read_roberta, _write_roberta, lambda _: _ROBERTA),
    "xlm-roberta": Family("XLMRobertaForTokenClassification", _read_roberta, _write_roberta, lambda _: _ROBERTA),
    "camembert": Family("CamembertForTokenClassification", _read_roberta, _write_roberta, lambda _: _ROBERTA),
    "electra": Family("ElectraForTokenClassification", _read_electra, _write_electra, lambda _: _ELECTRA),
    "albert": Family("AlbertForTokenClassification", _read_albert, _write_albert, lambda _: _ALBERT),
    "distilbert": Family(
        "DistilBertForTokenClassification",
        _read_distilbert,
        lambda config: write_fields(config.encoder, _DISTILBERT_NAMES),
        lambda _: _DISTILBERT,
    ),
}
