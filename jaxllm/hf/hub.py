"""Checkpoint folders, local or downloaded from the Hugging Face hub, and the tokenizers in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from jaxllm import planning
from jaxllm.data.hub import quiet_hub, why_unreachable
from jaxllm.hf.config import read_json
from jaxllm.types import InputError

PIECES = ("sentencepiece.bpe.model", "spiece.model", "spm.model")
"""SentencePiece models of CamemBERT and XLM-RoBERTa, ALBERT, DeBERTa. transformers reads one by the sentencepiece
library where there is no tokenizer.json."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", *PIECES)
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
    repo, _, revision = source.partition("@")
    kinds = ["*.json", "*.jinja", "tokenizer*", "*.txt", "*.model"] + ["*.safetensors"] * weights
    with quiet_hub():
        return _download(repo, revision or None, kinds)


def _download(repo: str, revision: str | None, kinds: list[str]) -> Path:
    """The folder of a hub id in the cache, brought up to date if the hub answers. Raises InputError."""
    from huggingface_hub import constants, snapshot_download

    unreachable = why_unreachable(repo, revision)
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=kinds, ignore_patterns=["*/*"],
                local_files_only=bool(unreachable),
            )
        )  # fmt: skip
    except Exception as error:  # the hub client raises many kinds, for a bad id, no access, no network
        reason = unreachable or " ".join(str(error).split())[:200]
        looked = f"looked in {Path(repo).absolute()} and {constants.HF_HUB_CACHE}"
        name = repo + (f"@{revision}" if revision else "")
        raise InputError(
            f"{name!r} is no folder, and the hub did not give it: {reason} ({looked}); check name and network"
        ) from None


def load_tokenizer(source: str) -> Any:
    """The fast tokenizer of a folder or hub id. Raises InputError."""
    if (plan := planning.current()) is not None:
        return plan.tokenizer
    from transformers import AutoTokenizer

    folder = fetch(source, weights=False)
    # Where all of them are missing, transformers makes up an empty tokenizer.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        known = ", ".join(TOKENIZER_FILES)
        raise InputError(f"{folder} has no tokenizer ({known}); name one by --tokenizer, or a folder that has one")
    pieces = [name for name in PIECES if (folder / name).is_file()]
    if pieces and not (folder / "tokenizer.json").is_file() and not importlib.util.find_spec("sentencepiece"):
        raise InputError(
            f"{folder} has {pieces[0]} but no tokenizer.json, and sentencepiece, which reads it, is not installed; "
            "pip install sentencepiece protobuf, or name a tokenizer by --tokenizer"
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its many classes raise many kinds
        reason = " ".join(str(error).split())[:200]
        newer = "untagged enum" in reason  # so `tokenizers` calls a kind of model that it does not know
        remedy = "it is of a newer version of the library tokenizers: upgrade that, or " if newer else ""
        raise InputError(
            f"{folder} has no tokenizer that can be read: {reason}; {remedy}name one by --tokenizer"
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{folder}: its tokenizer has no fast version (tokenizer.json); convert it with transformers")
    return tokenizer
