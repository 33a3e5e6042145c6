"""DeBERTa-v2 and DeBERTa-v3 (He et al. 2020, 2021), one model_type: names of their tensors and fields on disk."""

from __future__ import annotations

from typing import Any

from jaxllm.hf import bert
from jaxllm.hf.config import ACTIVATIONS, Family, Fields, Names, read_fields, write_fields
from jaxllm.hf.table import Rule, embedding, linear, norm
from jaxllm.models import deberta
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError

NAMES: Names = {
    **bert.NAMES,
    "absolute_positions": "position_biased_input",
    "position_dropout": "hidden_dropout_prob",
    "conv_dropout": "hidden_dropout_prob",
}

_TERMS = {"c2p": "content_to_position", "p2c": "position_to_content"}


def read(f: Fields) -> TaggerConfig:
    """The configuration that config.json describes. Raises InputError."""
    f.skip("pooler_dropout", "pooler_hidden_act", "pooler_hidden_size", "legacy")
    own = read_fields(f, NAMES, deberta.Config)
    f.only("embedding_size", own["width"])
    f.only("attention_head_size", own["width"] // own["heads"])
    f.only("norm_rel_ebd", "none", "layer_norm")
    relative = _read_relative(f, own["max_positions"])
    taps = f.get_or("conv_kernel_size", 0, int)
    if taps > 0:
        f.only("conv_groups", 1)
        own |= {"conv_taps": taps, "conv_activation": f.choice("conv_act", ACTIVATIONS)}
    f.skip("conv_act", "conv_groups")
    try:
        config = deberta.Config(**own, **relative)
    except InputError as error:
        raise InputError(f"{f.where}: {error}") from None
    return TaggerConfig(config, (), classifier_dropout=config.mlp_output_dropout)


def _read_relative(f: Fields, positions: int) -> dict[str, Any]:
    """Our fields of relative positions."""
    terms: list[str] = f.get_or("pos_att_type", [], list)
    if unknown := {*terms} - {*_TERMS}:
        raise InputError(f"{f.where}: pos_att_type has {', '.join(sorted(unknown))}, supported: {', '.join(_TERMS)}")
    names = ("max_relative_positions", "position_buckets", "share_att_key", "norm_rel_ebd")
    if not f.get("relative_attention", bool):
        if terms:
            raise InputError(
                f"{f.where}: pos_att_type is {terms} and relative_attention false, supported: both or neither"
            )
        f.skip(*names)
        return {}
    if not terms:
        raise InputError(f"{f.where}: relative_attention is true, and pos_att_type names none of {', '.join(_TERMS)}")
    reach, buckets = f.get_or("max_relative_positions", -1, int), f.get_or("position_buckets", -1, int)
    return {
        "reach": reach if reach > 0 else positions,
        "buckets": max(buckets, 0),
        "shared_projections": f.get_or("share_att_key", False, bool),
        "relative_norm": f.get_or("norm_rel_ebd", "none", str) == "layer_norm",
        **{ours: theirs in terms for theirs, ours in _TERMS.items()},
    }


def write(config: TaggerConfig) -> dict[str, Any]:
    """The fields of config.json that `read` reads. Raises InputError for another family's encoder."""
    c = config.encoder
    if not isinstance(c, deberta.Config):
        raise InputError("config.json of deberta-v2 describes DeBERTa's encoder alone; name another family")
    conv = {"conv_kernel_size": c.conv_taps, **write_fields(c, {"conv_activation": "conv_act"})} if c.conv_taps else {}
    return {
        **write_fields(c, NAMES),
        "relative_attention": c.reach > 0,
        "max_relative_positions": c.reach or -1,
        "position_buckets": c.buckets or -1,
        "pos_att_type": [theirs for theirs, ours in _TERMS.items() if getattr(c, ours)] or None,
        "share_att_key": c.shared_projections,
        "norm_rel_ebd": "layer_norm" if c.relative_norm else "none",
        **conv,
    }


_PROJECTIONS = {
    "query_proj": "q", "key_proj": "k", "value_proj": "v", "pos_query_proj": "pos_q", "pos_key_proj": "pos_k",
}  # fmt: skip

TABLE = bert.tagger_table(
    "deberta.",
    (
        *bert.embeddings("deberta."),
        *embedding("deberta.encoder.rel_embeddings", "relative"),
        *norm("deberta.encoder.LayerNorm", "relative_norm"),
        *bert.layers("deberta.", _PROJECTIONS),
        Rule("deberta.encoder.conv.conv.weight", ("conv.kernel",), transposed=True),
        Rule("deberta.encoder.conv.conv.bias", ("conv.bias",)),
        *norm("deberta.encoder.conv.LayerNorm", "conv.norm"),
        *linear("classifier", "classifier"),
    ),
    r"deberta\.embeddings\.position_embeddings\.weight",
    r"(cls|lm_predictions|mask_predictions|pooler)\..*",
)

FAMILIES = {"deberta-v2": Family("DebertaV2ForTokenClassification", read, write, lambda _: TABLE)}
