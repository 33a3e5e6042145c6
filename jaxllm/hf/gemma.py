"""Gemma 1, 2 and 3 (text): tensors and fields named as Llama's, norm scales stored minus one, embeddings scaled."""

from __future__ import annotations

import math
from typing import Any

from jaxllm.hf.config import Family, Fields
from jaxllm.hf.llama import common, read_scaling, read_windows, rotary, table, write, write_scaling, write_windows
from jaxllm.models.decoder_config import Config
from jaxllm.types import InputError


def _shared(fields: Fields, activation: str) -> dict[str, Any]:
    fields.only("use_bidirectional_attention", False)
    own = common(fields, activation)
    bias = fields.get("attention_bias", bool)
    return {**own, "qkv_bias": bias, "out_bias": bias, "norm_offset": 1.0, "embedding_scale": math.sqrt(own["width"])}


def _sandwich(fields: Fields) -> dict[str, Any]:
    """The fields that Gemma 2 and 3 share: norms before and after, windows, soft caps, a scale of the scores."""
    return {
        **_shared(fields, "hidden_activation"),
        "norm_place": "both",
        "windows": read_windows(fields),
        "attention_scale": fields.get("query_pre_attn_scalar", int) ** -0.5,
        "attention_softcap": fields.get_or("attn_logit_softcapping", 0.0, float),
        "logit_softcap": fields.get_or("final_logit_softcapping", 0.0, float),
    }


def _gemma3(fields: Fields) -> Config:
    kinds = fields.get("rope_parameters", dict)
    far, near = kinds["full_attention"], kinds["sliding_attention"]
    if near.get("rope_type", "default") != "default":
        raise InputError(f"{fields.where}: rope_parameters stretches sliding_attention; only full_attention may be")
    scaling = read_scaling(far, fields)
    if scaling.kind == "yarn":
        raise InputError(f"{fields.where}: rope_type is 'yarn', supported with windows: default, linear, llama3")
    return Config(
        **_sandwich(fields),
        qk_norm="head",
        rope_base=float(far["rope_theta"]),
        rope_scaling=scaling,
        local_rope_base=float(near["rope_theta"]),
    )


def _write(c: Config, activation: str = "hidden_act") -> dict[str, Any]:
    return {**write(c, activation), "attention_bias": c.qkv_bias}


def _write_sandwich(c: Config) -> dict[str, Any]:
    return {
        **_write(c, "hidden_activation"),
        **write_windows(c),
        "query_pre_attn_scalar": round(c.attention_scale**-2) if c.attention_scale else c.H,
        "attn_logit_softcapping": c.attention_softcap or None,
        "final_logit_softcapping": c.logit_softcap or None,
    }


def _write_gemma3(c: Config) -> dict[str, Any]:
    near = {"rope_type": "default", "rope_theta": c.local_rope_base}
    far = write_scaling(c.rope_base, c.rope_scaling)
    return {**_write_sandwich(c), "rope_parameters": {"full_attention": far, "sliding_attention": near}}


FAMILIES: dict[str, Family[Config]] = {
    "gemma": Family("GemmaForCausalLM", lambda f: Config(**_shared(f, "hidden_act"), **rotary(f)), _write, table),
    "gemma2": Family("Gemma2ForCausalLM", lambda f: Config(**_sandwich(f), **rotary(f)), _write_sandwich, table),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, _write_gemma3, table),
}
