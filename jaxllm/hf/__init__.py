"""Checkpoints in Hugging Face's format, read and written without PyTorch."""

from jaxllm.hf.hub import TOKENIZER_FILES, fetch, load_tokenizer
from jaxllm.hf.open import PretrainedModel, open_model
from jaxllm.hf.peft import find_targets, save_adapter
from jaxllm.hf.peft_open import open_adapter
from jaxllm.hf.save import config_json, export, names
from jaxllm.hf.special_tokens import SpecialTokens, special_tokens, unused_generation_fields

__all__ = [
    "TOKENIZER_FILES", "PretrainedModel", "SpecialTokens", "config_json", "export", "fetch", "find_targets",
    "load_tokenizer", "names", "open_adapter", "open_model", "save_adapter", "special_tokens",
    "unused_generation_fields",
]  # fmt: skip
