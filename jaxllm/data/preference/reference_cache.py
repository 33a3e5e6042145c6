"""Caching the log-probabilities of answers under a reference model in a file, for later runs.

They depend on the reference model and on the tokens it reads, so the key of a file is a hash of both. Another data set,
tokenizer, chat template, length or way to cut gives other tokens and another file; another loss, learning rate, batch
size, packing or seed finds the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxllm.data.preference.answers import Group, Logps
from jaxllm.data.tokenizers import cache_root

VERSION = 1
"""The version of the file format."""


def key_of(groups: Sequence[Group], model: str) -> str:
    """The cache key of the answers' log-probabilities; `model` is a string that changes when the model's outputs do."""
    digest = hashlib.sha256(f"{VERSION} {model} {len(groups)}".encode())
    for group in groups:
        sizes = [len(group.prompt), *(len(answer.tokens) for answer in group.answers)]
        digest.update(np.array([len(sizes), *sizes], np.int64).tobytes())
        digest.update(np.ascontiguousarray(group.prompt, np.int32).tobytes())
        for answer in group.answers:
            digest.update(np.ascontiguousarray(answer.tokens, np.int32).tobytes())
            digest.update(np.packbits(answer.trained).tobytes())
    return digest.hexdigest()[:24]


def path_of(name: str, root: Path | None = None) -> Path:
    """The file of a key. root: the folder of the cache, by default `cache_root()`."""
    return (cache_root() if root is None else root) / "references" / f"{name}.safetensors"


def read(path: Path, groups: Sequence[Group]) -> list[Logps] | None:
    """The log-probabilities of these groups in a file; None where the file is absent or incomplete."""
    sizes = [answer.reach for group in groups for answer in group.answers]
    try:
        flat = load_file(path)["logps"]
    except Exception:  # absent, cut short, no such tensor: each library has its own
        return None
    if flat.shape != (sum(sizes),):
        return None
    parts = iter(np.split(flat, np.cumsum(sizes)[:-1]))
    return [[next(parts) for _ in group.answers] for group in groups]


def write(path: Path, logps: Sequence[Logps]) -> None:
    """Writes a file, which appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"logps": np.concatenate([x for group in logps for x in group]).astype(np.float32)}, partial)
    partial.replace(path)
