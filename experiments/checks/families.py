"""A small model of every family, as its reader makes it of a config.json; all that meshes cut divides by 8."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.hf.config import Fields
from jaxllm.hf.families import LANGUAGE_MODELS, TAGGERS
from jaxllm.models import decoder, heads
from jaxllm.params import ModelSpec, describe

VOCAB, LABELS = 48, tuple("OABCDEFG")
DECODER = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
ENCODER = {**DECODER, "type_vocab_size": 1}
LAYERS = ["sliding_attention", "full_attention"]
OWN = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 32},
    "llama": {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True},
    "gemma": {},
    "gemma2": {"sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 5, "layer_types": LAYERS},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "bert": {"type_vocab_size": 2},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 34},
    "xlm-roberta": {"pad_token_id": 1, "max_position_embeddings": 34},
    "camembert": {"pad_token_id": 1, "max_position_embeddings": 34},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "num_hidden_layers": 3, "num_hidden_groups": 2},
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3, "conv_act": "gelu",
    },
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}  # fmt: skip
DECODERS, ENCODERS = list(LANGUAGE_MODELS), list(TAGGERS)


def family(kind: str, **fields: Any) -> ModelSpec:
    """The description of a small model of a family, dropout off; fields of config.json may be others."""
    if kind in DECODERS:
        config = LANGUAGE_MODELS[kind].read(Fields({"model_type": kind, **DECODER, **OWN[kind], **fields}))
        config = still(config)
        return describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)
    tagger = TAGGERS[kind].read(Fields({"model_type": kind, **ENCODER, **OWN[kind], **fields}))
    tagger = dataclasses.replace(still(tagger), encoder=still(tagger.encoder), labels=LABELS)
    return describe(lambda rngs: heads.Tagger(tagger, rngs), heads.SHARDING)


def still(config: Any) -> Any:
    """Without dropout, and layers compiled once."""
    names = {field.name for field in dataclasses.fields(config)}
    off = {name: 0.0 for name in names if name.endswith("dropout")}
    return dataclasses.replace(config, **off, **({"unroll": 1} if "unroll" in names else {}))
