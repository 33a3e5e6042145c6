"""Classifiers of whole texts on encoders: their heads and fields on disk, as `ForSequenceClassification` has them.

Each head is a dense layer with an activation, which some families call a pooler, and a classifier of its output at the
first token. The tables are those of the families' token classifiers with another head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxllm.hf.config import Family, Fields, read_fields, write_fields
from jaxllm.hf.table import Table, linear
from jaxllm.models.heads import ClassifierConfig, TaggerConfig

_POOLING = {"cls": False, "mean": True}


@dataclasses.dataclass(frozen=True)
class Head:
    """How a family's head differs from that of its token classifier."""

    dense: str
    """Name on disk of the dense layer; empty where the token classifier has it too."""
    out: str = "classifier"
    """Name on disk of the classifier."""
    read: Callable[[Fields, TaggerConfig], dict[str, Any]] = lambda f, tagger: {}
    """Fields of our configuration that its config.json gives, beside those of the token classifier."""
    write: Callable[[ClassifierConfig], dict[str, Any]] = lambda config: {}
    """The inverse."""
    unread: tuple[str, ...] = ()
    """Regular expressions of names on disk that belong to the heads of other tasks."""


def classifier(family: Family[TaggerConfig], head: Head) -> Family[ClassifierConfig]:
    """A family's classifiers of texts, made of its token classifiers and its head."""

    def read(f: Fields) -> ClassifierConfig:
        tagger = family.read(f)
        shared = {"encoder": tagger.encoder, "labels": (), "classifier_dropout": tagger.classifier_dropout}
        return ClassifierConfig(**{**shared, **head.read(f, tagger)})

    def write(config: ClassifierConfig) -> dict[str, Any]:
        return {**family.write(config), **head.write(config)}

    def table(config: ClassifierConfig) -> Table:
        base = family.table(config)
        own = {"classifier.kernel", "classifier.bias"}
        rules = tuple(rule for rule in base.rules if not own & {*rule.ours})
        dense = linear(head.dense, "transform.dense") if head.dense else ()
        return dataclasses.replace(
            base,
            rules=(*rules, *dense, *linear(head.out, "classifier")),
            ignore=(*base.ignore, *head.unread),
            heads=("transform", "classifier"),
        )

    architecture = family.architecture.replace("ForTokenClassification", "ForSequenceClassification")
    return Family(architecture, read, write, table)


def _dropout_twice(f: Fields, tagger: TaggerConfig) -> dict[str, Any]:
    return {"transform_dropout": tagger.classifier_dropout}


_TAGGERS_OWN = (r"classifier\.(weight|bias)",)
_ROBERTA = Head("classifier.dense", "classifier.out_proj", _dropout_twice, unread=_TAGGERS_OWN)


def _read_modernbert(f: Fields, tagger: TaggerConfig) -> dict[str, Any]:
    names = ("transform_bias", "transform_activation", "transform_norm")
    return {**{name: getattr(tagger, name) for name in names}, "mean": f.choice("classifier_pooling", _POOLING)}


_DEBERTA = {"transform_activation": "pooler_hidden_act", "transform_dropout": "pooler_dropout"}


def _read_deberta(f: Fields, tagger: TaggerConfig) -> dict[str, Any]:
    f.only("pooler_hidden_size", tagger.encoder.width)
    rate = f.get_or("cls_dropout", tagger.classifier_dropout, float)
    return {**read_fields(f, _DEBERTA, ClassifierConfig), "classifier_dropout": rate}


def _write_deberta(config: ClassifierConfig) -> dict[str, Any]:
    fields = {**write_fields(config, _DEBERTA), "pooler_hidden_size": config.encoder.width}
    return fields | {"cls_dropout": config.classifier_dropout}


HEADS: dict[str, Head] = {
    "bert": Head("bert.pooler.dense"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Head(
        "pre_classifier",
        read=lambda f, _: {"classifier_dropout": f.get("seq_classif_dropout", float), "transform_activation": "relu"},
        write=lambda c: {"seq_classif_dropout": c.classifier_dropout},
    ),
    "modernbert": Head("", read=_read_modernbert, write=lambda c: {"classifier_pooling": "mean" if c.mean else "cls"}),
    "electra": dataclasses.replace(
        _ROBERTA, read=lambda f, tagger: {**_dropout_twice(f, tagger), "transform_activation": "gelu"}
    ),
    "albert": Head("albert.pooler"),
    "deberta-v2": Head("pooler.dense", read=_read_deberta, write=_write_deberta),
}
"""By the model_type of config.json."""
