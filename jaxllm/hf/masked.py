"""Masked language models of every family of encoders: names of the head's tensors and fields, beside the taggers'."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jaxllm.hf.config import ACTIVATIONS, Family, Fields, read_fields, write_fields
from jaxllm.hf.modernbert import HEAD_NAMES
from jaxllm.hf.table import Rule, Table, linear, norm
from jaxllm.models.heads import TaggerConfig
from jaxllm.models.mlm_head import MaskedConfig

_FIELDS = {"transform_bias": HEAD_NAMES["transform_bias"], "transform_activation": HEAD_NAMES["transform_activation"],
           "unembed_bias": "decoder_bias"}  # fmt: skip
"""ModernBERT's, the only family whose config.json describes its head."""


@dataclasses.dataclass(frozen=True)
class Head:
    """Where the parts of a family's head are on disk."""

    dense: str
    norm: str
    decoder: str
    """Of the product with the table; its weight is not on disk where it is the table."""
    bias: str
    """Where the bias is if the table is tied, without its last part; the decoder's own bias is tied to it then."""
    activation: str = "hidden_act"
    """The field of config.json that names the activation, or the name of the one that the family always has."""


_P = "cls.predictions"
_BERT = Head(f"{_P}.transform.dense", f"{_P}.transform.LayerNorm", f"{_P}.decoder", _P)
_ROBERTA = Head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head", activation="gelu")
_V3 = "lm_predictions.lm_head"
_DEBERTA_V3 = Head(f"{_V3}.dense", f"{_V3}.LayerNorm", f"{_V3}.decoder", _V3)
"""DeBERTa's head where `legacy` is false."""

HEADS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Head("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector", "activation"),
    "modernbert": Head("head.dense", "head.norm", "decoder", "decoder", "classifier_activation"),
    "electra": Head(
        "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head", "generator_lm_head",
        "gelu",
    ),
    "albert": Head("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions"),
    "deberta-v2": _BERT,
}  # fmt: skip


def masked_family(kind: str, tagger: Family[TaggerConfig]) -> Family[MaskedConfig]:
    """The masked language models of the family whose token classifiers these are."""

    def read(f: Fields) -> MaskedConfig:
        legacy = f.get("legacy", bool) if kind == "deberta-v2" else True
        head = head_of(kind, legacy)
        fixed = ACTIVATIONS.get(head.activation)
        own: dict[str, Any] = {"transform_activation": fixed or f.choice(head.activation, ACTIVATIONS)}
        own |= read_fields(f, _FIELDS, MaskedConfig) if kind == "modernbert" else {}
        return MaskedConfig(tagger.read(f).encoder, tied=f.get("tie_word_embeddings", bool), legacy=legacy, **own)

    def write(config: MaskedConfig) -> dict[str, Any]:
        fields = tagger.write(TaggerConfig(config.encoder, (), transform=kind == "modernbert"))
        fields |= write_fields(config, _FIELDS) if kind == "modernbert" else {}
        fields |= {"legacy": config.legacy} if kind == "deberta-v2" else {}
        return {**fields, "tie_word_embeddings": config.tied}

    name = re.sub("ForTokenClassification$", "ForMaskedLM", tagger.architecture)
    return Family(name, read, write, lambda config: _table(tagger, head_of(kind, config.legacy), config))


def head_of(kind: str, legacy: bool = True) -> Head:
    """The names of a family's head."""
    return HEADS[kind] if legacy else _DEBERTA_V3


def _table(tagger: Family[TaggerConfig], head: Head, config: MaskedConfig) -> Table:
    """The encoder's tensors by the tagger's table, and the head's."""
    base = tagger.table(TaggerConfig(config.encoder, ()))
    encoder = tuple(rule for rule in base.rules if not any(x.split(".")[0] in base.heads for x in rule.ours))
    # Where the bias has two names, the first is tied to the second; untied, the second is read, and both are written.
    biases = dict.fromkeys((head.bias,) if config.tied else (head.bias, head.decoder))
    rules = (
        *encoder,
        *linear(head.dense, "transform.dense"),
        *norm(head.norm, "transform.norm"),
        *(Rule(f"{name}.bias", ("unembed.bias",)) for name in biases),
        Rule(f"{head.decoder}.weight", ("unembed.kernel",), transposed=True),
    )
    # The tables ignore the heads of other tasks, and this one: a name that a rule has is not ignored.
    ignore = (*base.ignore, r"classifier\..*")
    return dataclasses.replace(base, rules=rules, ignore=ignore, heads=("transform", "unembed"))
