"""Hugging Face checkpoints, both ways, without PyTorch."""

from jaxllm.hf.decoders import open_decoder
from jaxllm.hf.io import Opened, fetch, load_tokenizer, open_tagger
from jaxllm.hf.save import config_json, export
from jaxllm.hf.scorers import open_scorer

__all__ = ["Opened", "config_json", "export", "fetch", "load_tokenizer", "open_decoder", "open_scorer", "open_tagger"]
