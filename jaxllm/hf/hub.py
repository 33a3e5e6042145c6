"""Checkpoint folders, local or downloaded from the Hugging Face hub, and the tokenizers in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxllm.data.sources import quiet_hub
from jaxllm.types import InputError

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
"""One of these holds a tokenizer's vocabulary."""


def fetch(source: str, *, weights: bool = True) -> Path:
    """The folder of a checkpoint: a folder, a run's (its export), or a hub id, `owner/name` or `owner/name@revision`.

    Downloads config, tokenizer and safetensors only, and never code. Raises InputError.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        return path / "hf" if (path / "hf" / "config.json").is_file() else path
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1 or not source:
        raise InputError(f"{source!r} is no folder; name a checkpoint's folder or an id on the hub")
    from huggingface_hub import snapshot_download

    repo, _, revision = source.partition("@")
    kinds = ["*.json", "*.jinja", "tokenizer*", "*.txt", "*.model"] + ["*.safetensors"] * weights
    try:
        with quiet_hub():
            return Path(
                snapshot_download(repo, revision=revision or None, allow_patterns=kinds, ignore_patterns=["*/*"])
            )
    except Exception as error:  # the hub client raises many kinds, for a bad id, no access, no network
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source!r} is no folder, and the hub did not give it: {reason}; check name and network"
        ) from None


def load_tokenizer(source: str) -> Any:
    """The fast tokenizer of a folder or hub id. Raises InputError."""
    from transformers import AutoTokenizer

    folder = fetch(source, weights=False)
    # Where all of them are missing, transformers makes up an empty tokenizer.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        known = ", ".join(TOKENIZER_FILES)
        raise InputError(f"{folder} has no tokenizer ({known}); name one by --tokenizer, or a folder that has one")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its many classes raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} has no tokenizer that can be read: {reason}; name one by --tokenizer") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{folder}: its tokenizer has no fast version (tokenizer.json); convert it with transformers")
    return tokenizer
