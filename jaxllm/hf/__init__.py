"""Hugging Face checkpoints, both ways, without PyTorch."""

from jaxllm.hf.decoders import open_decoder
from jaxllm.hf.io import Opened, fetch, load_tokenizer, open_tagger
from jaxllm.hf.peft import find_targets, save_adapter
from jaxllm.hf.peft_open import open_adapter
from jaxllm.hf.save import config_json, export, names
from jaxllm.hf.scorers import open_scorer

__all__ = [
    "Opened", "config_json", "export", "fetch", "find_targets", "load_tokenizer", "names", "open_adapter",
    "open_decoder", "open_scorer", "open_tagger", "save_adapter",
]  # fmt: skip
