"""Small configurations of every decoder family, in the words of `transformers`."""

WIDTH = 24
BASE = {
    "vocab_size": 67, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": 67, "n_embd": WIDTH, "n_layer": 2, "n_head": 3, "n_positions": 128, "eos_token_id": None}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.5}
PLAIN = {"rope_type": "default", "rope_theta": 2000.0}
ALTERNATE = ["sliding_attention", "full_attention", "sliding_attention"]

CASES = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied-relu": ("gpt2", {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 31}),
    "gpt2-unscaled": ("gpt2", {**GPT2, "scale_attn_weights": False, "n_head": 6}),
    "llama-2": ("llama", {**BASE, "num_key_value_heads": 3, "rms_norm_eps": 1e-3}),
    "llama-3.1": ("llama", {**BASE, "tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-biased-linear": ("llama", {**BASE, "attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR}),
    "llama-yarn": ("llama", {**BASE, "head_dim": 12, "rope_parameters": YARN}),
    "llama-yarn-mscale": ("llama", {**BASE, "rope_parameters": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}}),
    "llama-yarn-one-mscale": ("llama", {**BASE, "rope_parameters": {**YARN, "mscale": 1.2}}),
    "llama-partial": ("llama", {**BASE, "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}),
    "mistral": ("mistral", {**BASE, "sliding_window": 5}),
    "mistral-everything": (
        "mistral", {**BASE, "sliding_window": None, "head_dim": 16, "tie_word_embeddings": True},
    ),
    "mistral-wide-window": ("mistral", {**BASE, "sliding_window": 39, "num_key_value_heads": 3}),
    "qwen2": ("qwen2", {**BASE, "tie_word_embeddings": True}),
    "qwen2-windows": (
        "qwen2",
        {**BASE, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("qwen2", {**BASE, "rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16.0}}),
    "qwen3": ("qwen3", BASE),
    "qwen3-biased": ("qwen3", {**BASE, "attention_bias": True, "head_dim": 10, "tie_word_embeddings": True}),
    "qwen3-windows": (
        "qwen3", {**BASE, "use_sliding_window": True, "sliding_window": 7, "num_hidden_layers": 3,
                  "layer_types": ALTERNATE},
    ),
    "gemma": ("gemma", {**BASE, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**BASE, "sliding_window": 6, "query_pre_attn_scalar": 20}),
    "gemma2-caps": (
        "gemma2", {**BASE, "sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
                   "num_hidden_layers": 3, "query_pre_attn_scalar": 8},
    ),
    "gemma2-uncapped": (
        "gemma2", {**BASE, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True,
                   "layer_types": ["full_attention"] * 2, "tie_word_embeddings": False},
    ),
    "gemma3": ("gemma3_text", {**BASE, "sliding_window": 5, "num_hidden_layers": 3, "layer_types": ALTERNATE}),
    "gemma3-stretched": (
        "gemma3_text", {**BASE, "sliding_window": 5, "rope_parameters": {"full_attention": LINEAR,
                        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}},
                        "num_hidden_layers": 3, "layer_types": ALTERNATE},
    ),
    "gemma3-capped": (
        "gemma3_text", {**BASE, "sliding_window": 9, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 11,
                        "tie_word_embeddings": False, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "olmo2": ("olmo2", BASE),
    "olmo2-tied": ("olmo2", {**BASE, "tie_word_embeddings": True, "num_key_value_heads": 3, "attention_bias": True}),
    "olmo2-based": ("olmo2", {**BASE, "rope_parameters": PLAIN, "hidden_act": "gelu"}),
    "mixtral": ("mixtral", {**BASE, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral-windows": (
        "mixtral", {**BASE, "num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 6,
                    "tie_word_embeddings": True},
    ),
    "mixtral-all": ("mixtral", {**BASE, "num_local_experts": 3, "num_experts_per_tok": 3, "router_aux_loss_coef": 0.5}),
    "qwen3-moe": ("qwen3_moe", {**BASE, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    "qwen3-moe-renormalised": (
        "qwen3_moe", {**BASE, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 12,
                      "norm_topk_prob": True, "tie_word_embeddings": True},
    ),
    "qwen3-moe-biased": (
        "qwen3_moe", {**BASE, "num_experts": 3, "num_experts_per_tok": 1, "moe_intermediate_size": 12,
                      "attention_bias": True, "use_sliding_window": True, "sliding_window": 7},
    ),
}  # fmt: skip
ONE_EACH = [
    "gpt2", "llama-3.1", "mistral", "qwen2-windows", "qwen3-windows", "gemma", "gemma2-caps", "gemma3-stretched",
    "olmo2", "mixtral", "qwen3-moe",
]  # fmt: skip
