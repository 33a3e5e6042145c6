"""Llama, Mistral, Qwen2, Qwen3 and OLMo 2: the names of their tensors and fields on disk.

Gemma (gemma.py) and the mixtures of experts (mixture.py) build on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.hf.config import Family, Fields, Names, read_fields, write_fields
from jaxllm.hf.table import Rule, Table, embedding, linear, norm
from jaxllm.models.decoder_config import Config
from jaxllm.models.rope import KINDS, UNSCALED, Scaling, yarn_amplitude
from jaxllm.types import InputError

NORMS = {
    "before": {"input": "attn_norm", "post_attention": "mlp_norm"},
    "after": {"post_attention": "attn_post_norm", "post_feedforward": "mlp_post_norm"},
    "both": {
        "input": "attn_norm",
        "post_attention": "attn_post_norm",
        "pre_feedforward": "mlp_norm",
        "post_feedforward": "mlp_post_norm",
    },
}
"""Config.norm_place -> {name on disk, before `_layernorm`: ours}. Note that `post_attention` means two things."""

LAYER = "model.layers.{layer}."
MLP = tuple(rule for x in ("gate", "up", "down") for rule in linear(f"{LAYER}mlp.{x}_proj", f"blocks.mlp.{x}"))


def table(c: Config, mlp: Sequence[Rule] = MLP) -> Table:
    """The names of a decoder of this configuration."""
    rules = [*embedding("model.embed_tokens", "embeddings.tokens")]
    for theirs, ours in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out")):
        rules += linear(f"{LAYER}self_attn.{theirs}", f"blocks.attn.{ours}")
    for name in ("q_norm", "k_norm"):
        rules += norm(f"{LAYER}self_attn.{name}", f"blocks.attn.{name}")
    for theirs, ours in NORMS[c.norm_place].items():
        rules += norm(f"{LAYER}{theirs}_layernorm", f"blocks.{ours}")
    rules += [*mlp, *norm("model.norm", "norm"), *linear("lm_head", "unembed")]
    # A tied head is sometimes written a second time.
    tied = (r"lm_head\.weight",) if c.tied else ()
    return Table(tuple(rules), prefix="model.", ignore=(r".*rotary_emb\.inv_freq", *tied))


NAMES: Names = {
    "vocab_size": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
    "mlp_width": "intermediate_size", "max_positions": "max_position_embeddings", "norm_eps": "rms_norm_eps",
}  # fmt: skip
"""The fields that all of these families have under the same names."""


def common(fields: Fields, activation: str = "hidden_act") -> dict[str, Any]:
    """The fields of our configuration that all of these families have; `activation` is that field's name on disk."""
    own = read_fields(fields, {**NAMES, "activation": activation}, Config)
    return {
        **own,
        "kv_heads": fields.get_or("num_key_value_heads", own["heads"], int),
        "head_width": fields.get_or("head_dim", 0, int),
        "tied": fields.get_or("tie_word_embeddings", False, bool),
        "attention_dropout": fields.get_or("attention_dropout", 0.0, float),
        "init_std": fields.get_or("initializer_range", 0.02, float),
    }


def rotary(fields: Fields) -> dict[str, Any]:
    """The rotary positions of a family whose layers all have the same."""
    parameters = fields.get("rope_parameters", dict)
    scaling = read_scaling(parameters, fields)
    return {"rope_base": float(parameters["rope_theta"]), "rope_scaling": scaling}


def read_scaling(parameters: Mapping[str, Any], fields: Fields) -> Scaling:
    """The scaling that a rope_parameters dictionary describes. Raises InputError for what is not supported."""
    given = {name: x for name, x in parameters.items() if x is not None and name not in ("rope_theta", "type")}
    kind = given.pop("rope_type", "default")
    if kind == "default" or given.get("partial_rotary_factor") == 1.0:
        given.pop("partial_rotary_factor", None)  # the classes of these families in `transformers` do not use it
    original = fields.get("max_position_embeddings", int)
    try:
        if kind == "default":
            scaling = UNSCALED
            if given.get("factor") == 1.0:  # which scales nothing
                given.pop("factor")
        elif kind == "linear":
            scaling = Scaling(kind, float(given.pop("factor")))
        elif kind == "llama3":
            slow, fast = float(given.pop("low_freq_factor")), float(given.pop("high_freq_factor"))
            factor, original = float(given.pop("factor")), given.pop("original_max_position_embeddings", original)
            scaling = Scaling(kind, factor, original, slow, fast)
        elif kind == "yarn":
            factor, original = float(given.pop("factor")), given.pop("original_max_position_embeddings", original)
            slow, fast = float(given.pop("beta_slow", 1.0)), float(given.pop("beta_fast", 32.0))
            amplitude = float(given.pop("attention_factor", _amplitude(factor, given)))
            for name in ("mscale", "mscale_all_dim"):
                given.pop(name, None)
            scaling = Scaling(kind, factor, original, slow, fast, given.pop("truncate", True), amplitude)
        else:
            raise InputError(
                f"{fields.where}: rope_type is {kind!r}, supported: {', '.join(KINDS)}; use another checkpoint"
            )
    except KeyError as error:
        raise InputError(f"{fields.where}: rope_parameters lacks {error}, which {kind} needs; add it") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{fields.where}: rope_parameters has a value that is no number ({error}); mend it") from None
    if given:
        raise InputError(
            f"{fields.where}: rope_parameters has {', '.join(given)}, not supported for {kind}; use another checkpoint"
        )
    return scaling


def _amplitude(factor: float, given: Mapping[str, Any]) -> float:
    """Yarn's attention_factor where config.json does not give it, as `transformers` computes it."""
    one, all_dim = float(given.get("mscale") or 0), float(given.get("mscale_all_dim") or 0)
    if one and all_dim:
        return yarn_amplitude(factor, one) / yarn_amplitude(factor, all_dim)
    return yarn_amplitude(factor)


def write_scaling(base: float, scaling: Scaling) -> dict[str, Any]:
    """The inverse of `read_scaling`: a rope_parameters dictionary."""
    parameters: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": base}
    if scaling.kind != "default":
        parameters["factor"] = scaling.factor
    if scaling.kind in ("llama3", "yarn"):
        slow, fast = ("low_freq_factor", "high_freq_factor") if scaling.kind == "llama3" else ("beta_slow", "beta_fast")
        parameters |= {slow: scaling.slow, fast: scaling.fast}
        parameters["original_max_position_embeddings"] = scaling.original_positions
    if scaling.kind == "yarn":
        parameters |= {"attention_factor": scaling.amplitude, "truncate": scaling.truncate}
    return parameters


def read_windows(fields: Fields) -> tuple[int, ...]:
    """The windows of a family that lists the kind of each layer."""
    kinds, window = fields.get("layer_types", list), fields.get_or("sliding_window", 0, int)
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise InputError(
            f"{fields.where}: layer_types has {unknown.pop()!r}, which is not supported; use another checkpoint"
        )
    if len(kinds) != fields.get("num_hidden_layers", int) or ("sliding_attention" in kinds and window < 1):
        raise InputError(f"{fields.where}: layer_types does not fit num_hidden_layers and sliding_window; mend it")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def write_windows(c: Config) -> dict[str, Any]:
    """The inverse of `read_windows`. Raises ValueError for windows of several sizes, which these families lack."""
    pattern = [c.windows[i % len(c.windows)] for i in range(c.depth)]
    sizes = {w for w in pattern if w}
    if len(sizes) > 1:
        raise ValueError(f"windows of several sizes {sorted(sizes)}")
    kinds = ["sliding_attention" if w else "full_attention" for w in pattern]
    return {"layer_types": kinds, "sliding_window": max(sizes, default=None)}


def write(c: Config, activation: str = "hidden_act") -> dict[str, Any]:
    """The fields of config.json that all of these families share."""
    return {
        **write_fields(c, NAMES),
        "num_key_value_heads": c.K,
        "head_dim": c.H,
        activation: {"gelu_tanh": "gelu_pytorch_tanh"}.get(c.activation, c.activation),
        "tie_word_embeddings": c.tied,
        "attention_dropout": c.attention_dropout,
        "initializer_range": c.init_std,
        "rope_parameters": write_scaling(c.rope_base, c.rope_scaling),
    }


def _biases(fields: Fields) -> dict[str, Any]:
    bias = fields.get("attention_bias", bool)
    return {"qkv_bias": bias, "out_bias": bias}


def _llama(fields: Fields) -> Config:
    fields.skip("pretraining_tp")  # how the matmuls were cut, not what they compute
    return Config(**common(fields), **rotary(fields), **_biases(fields), mlp_bias=fields.get("mlp_bias", bool))


def _mistral(fields: Fields) -> Config:
    return Config(**common(fields), **rotary(fields), windows=(fields.get_or("sliding_window", 0, int),))


def _qwen2(fields: Fields) -> Config:
    fields.skip("use_sliding_window", "max_window_layers")  # layer_types says it
    return Config(**common(fields), **rotary(fields), qkv_bias=True, windows=read_windows(fields))


def _qwen3(fields: Fields) -> Config:
    fields.skip("use_sliding_window", "max_window_layers")
    own = {**common(fields), **rotary(fields), **_biases(fields)}
    return Config(**own, windows=read_windows(fields), qk_norm="head")


def _olmo2(fields: Fields) -> Config:
    own = {**common(fields), **rotary(fields), **_biases(fields)}
    return Config(**own, norm_place="after", qk_norm="full")


def _write_qwen(c: Config) -> dict[str, Any]:
    return {**write(c), **write_windows(c), "use_sliding_window": any(c.windows)}


FAMILIES: dict[str, Family[Config]] = {
    "llama": Family(
        "LlamaForCausalLM", _llama, lambda c: {**write(c), "attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}, table
    ),
    "mistral": Family(
        "MistralForCausalLM", _mistral, lambda c: {**write(c), "sliding_window": c.windows[0] or None}, table
    ),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, _write_qwen, table),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, lambda c: {**_write_qwen(c), "attention_bias": c.qkv_bias}, table),
    "olmo2": Family("Olmo2ForCausalLM", _olmo2, lambda c: {**write(c), "attention_bias": c.qkv_bias}, table),
}
