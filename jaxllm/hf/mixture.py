"""Mixtures of experts, Mixtral and Qwen3-MoE: their names on disk, where each expert has separate tensors."""

from __future__ import annotations

from typing import Any

from jaxllm.hf.config import Family, Fields
from jaxllm.hf.llama import LAYER, common, rotary, table, write
from jaxllm.hf.table import Rule, linear
from jaxllm.models.decoder_config import Config


def _experts(module: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    rules = linear(f"{LAYER}{module}.gate", "blocks.experts.router")
    for theirs, ours in ((gate, "gate"), (up, "up"), (down, "down")):
        rules += linear(f"{LAYER}{module}.experts.{{expert}}.{theirs}", f"blocks.experts.{ours}")
    return rules


MIXTRAL = _experts("block_sparse_moe", "w1", "w3", "w2")
QWEN = _experts("mlp", "gate_proj", "up_proj", "down_proj")


def _shared(fields: Fields) -> dict[str, Any]:
    fields.skip("output_router_logits")  # the balance loss is always reported
    return {
        **common(fields),
        **rotary(fields),
        "windows": (fields.get_or("sliding_window", 0, int),),
        "experts_per_token": fields.get("num_experts_per_tok", int),
        "router_balance": fields.get("router_aux_loss_coef", float),
    }


def _mixtral(fields: Fields) -> Config:
    fields.only("router_jitter_noise", 0.0)
    return Config(**_shared(fields), experts=fields.get("num_local_experts", int))


def _qwen3_moe(fields: Fields) -> Config:
    fields.only("decoder_sparse_step", 1)
    fields.only("mlp_only_layers", [])
    fields.skip("use_sliding_window", "max_window_layers")  # sliding_window is null without
    bias = fields.get("attention_bias", bool)
    return Config(
        **{**_shared(fields), "mlp_width": fields.get("moe_intermediate_size", int)},
        experts=fields.get("num_local_experts", int),  # `transformers` renews the name num_experts
        renormalise=fields.get("norm_topk_prob", bool),
        qk_norm="head",
        qkv_bias=bias,
        out_bias=bias,
    )


def _write(c: Config) -> dict[str, Any]:
    return {
        **write(c),
        "sliding_window": c.windows[0] or None,
        "num_experts_per_tok": c.experts_per_token,
        "router_aux_loss_coef": c.router_balance,
    }


def _write_qwen3_moe(c: Config) -> dict[str, Any]:
    return {
        **_write(c),
        "moe_intermediate_size": c.mlp_width,
        "num_experts": c.experts,
        "norm_topk_prob": c.renormalise,
        "attention_bias": c.qkv_bias,
        "use_sliding_window": any(c.windows),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _write_mixtral(c: Config) -> dict[str, Any]:
    return {**_write(c), "num_local_experts": c.experts}


FAMILIES: dict[str, Family[Config]] = {
    "mixtral": Family("MixtralForCausalLM", _mixtral, _write_mixtral, lambda c: table(c, MIXTRAL)),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", _qwen3_moe, _write_qwen3_moe, lambda c: table(c, QWEN)),
}
