"""The families of models that are read and written, for each task, by the model_type of config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxllm.hf import bert, deberta, gemma, gpt2, llama, mixture, modernbert
from jaxllm.hf.classifiers import HEADS, classifier
from jaxllm.hf.config import Family, Fields
from jaxllm.hf.masked import masked_family
from jaxllm.hf.table import Rule, Table, linear
from jaxllm.models.decoder_config import Config
from jaxllm.models.heads import ClassifierConfig, ScorerConfig, TaggerConfig
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.types import InputError

OURS: dict[str, Any] = {"crf": False, "decode": "", "document_context": 0}
"""Fields of a TaggerConfig that `transformers` does not know, and their defaults."""


def _tagger(family: Family[TaggerConfig]) -> Family[TaggerConfig]:
    """A family's token classifiers, with fields of ours in config.json, and a CRF's tensors in a file of their own."""

    def read(fields: Fields) -> TaggerConfig:
        own = {name: fields.get_or(name, default, type(default)) for name, default in OURS.items()}
        return dataclasses.replace(family.read(fields), **own)

    def write(config: TaggerConfig) -> dict[str, Any]:
        return {**family.write(config), **{name: getattr(config, name) for name in OURS}}

    def table(config: TaggerConfig) -> Table:
        base = family.table(config)
        if not config.crf:
            return dataclasses.replace(base, ignore=(*base.ignore, r"crf\..*"))
        rules = tuple(Rule(name, (name,)) for name in ("crf.start", "crf.pairs", "crf.end"))
        return dataclasses.replace(base, rules=(*base.rules, *rules), heads=(*base.heads, "crf"))

    return dataclasses.replace(family, read=read, write=write, table=table)


_ENCODERS = {**bert.FAMILIES, **modernbert.FAMILIES, **deberta.FAMILIES}

TAGGERS: dict[str, Family[TaggerConfig]] = {kind: _tagger(_ENCODERS[kind]) for kind in HEADS}
"""Token classifiers: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ModernBERT, ELECTRA, ALBERT, DeBERTa-v2 and v3.
"""

MASKED: dict[str, Family[MaskedConfig]] = {kind: masked_family(kind, family) for kind, family in TAGGERS.items()}
"""Masked language models, of the same families."""

LANGUAGE_MODELS: dict[str, Family[Config]] = {
    **gpt2.FAMILIES,
    **llama.FAMILIES,
    **gemma.FAMILIES,
    **mixture.FAMILIES,
}
"""Causal language models: GPT-2, Llama, Mistral, Qwen2, Qwen3, OLMo 2, Gemma 1 to 3, Mixtral, Qwen3-MoE."""


def _scorer(family: Family[Config]) -> Family[ScorerConfig]:
    """A decoder family's sequence classifiers, whose head is `score`; those with one label are reward models."""

    def table(config: ScorerConfig) -> Table:
        base = family.table(config.trunk)
        rules = (*base.rules, *linear("score", "score"))
        # The head of the language model that training started from is not used.
        return dataclasses.replace(base, rules=rules, ignore=(*base.ignore, r"lm_head\..*"), heads=("score",))

    def write(config: Any) -> dict[str, Any]:
        if not isinstance(config, ScorerConfig):
            raise InputError(f"config.json of {family.architecture} describes a decoder; name a family of encoders")
        return family.write(config.decoder)

    name = family.architecture.replace("ForCausalLM", "").replace("LMHeadModel", "")
    return Family(f"{name}ForSequenceClassification", lambda fields: ScorerConfig(family.read(fields)), write, table)


SCORERS: dict[str, Family[ScorerConfig]] = {kind: _scorer(family) for kind, family in LANGUAGE_MODELS.items()}
"""Reward models, of the same families."""

CLASSIFIERS: dict[str, Family[Any]] = {
    **{kind: classifier(TAGGERS[kind], head) for kind, head in HEADS.items()},
    **SCORERS,
}
"""Classifiers of whole texts, of all families."""

TASKS: dict[str, Mapping[str, Family[Any]]] = {
    "tagger": TAGGERS, "lm": LANGUAGE_MODELS, "scorer": SCORERS, "masked": MASKED, "classifier": CLASSIFIERS,
}  # fmt: skip
"""What a model's head is for -> the families that have one."""


def task_of(config: Any) -> str:
    """The task of a model of this configuration: tagger, lm, scorer, masked or, on an encoder or with several labels,
    classifier."""
    if isinstance(config, ScorerConfig):
        return "scorer" if len(config.labels) == 1 else "classifier"
    known = {TaggerConfig: "tagger", MaskedConfig: "masked", ClassifierConfig: "classifier"}
    return known.get(type(config), "lm")


def task_in(config_json: Mapping[str, Any]) -> str:
    """The task of the model that a config.json describes."""
    whole = "ForSequenceClassification" in str(config_json.get("architectures"))
    if config_json.get("model_type") in TAGGERS:
        masked = "ForMaskedLM" in str(config_json.get("architectures"))
        return "classifier" if whole else "masked" if masked else "tagger"
    # Two labels are what transformers takes for granted where config.json names none.
    labels = len(config_json.get("id2label") or ()) or config_json.get("num_labels", 2)
    return "lm" if not whole else "scorer" if labels == 1 else "classifier"
