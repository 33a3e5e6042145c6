"""Log-probabilities of answers under a reference, kept in a file between runs.

They depend on what the reference reads and on the reference. What it reads is the tokens themselves, so the key of a
file is a hash of these: another data set, tokenizer, chat template, length or way to cut gives other tokens and so
another file, while another loss, learning rate, batch, packing or seed of the order finds the same one.
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
"""Of the files written here: a change of what is in them changes the number."""


def key(groups: Sequence[Group], model: str) -> str:
    """What stands for the log-probabilities of these answers under a model; `model` changes when its outputs do."""
    digest = hashlib.sha256(f"{VERSION} {model} {len(groups)}".encode())
    for group in groups:
        sizes = [len(group.prompt), *(len(answer.tokens) for answer in group.answers)]
        digest.update(np.array([len(sizes), *sizes], np.int64).tobytes())
        digest.update(np.ascontiguousarray(group.prompt, np.int32).tobytes())
        for answer in group.answers:
            digest.update(np.ascontiguousarray(answer.tokens, np.int32).tobytes())
            digest.update(np.packbits(answer.trained).tobytes())
    return digest.hexdigest()[:24]


def place(name: str, root: Path | None = None) -> Path:
    """The file of a key. root: where files are kept, by default below `cache_root()`."""
    return (cache_root() if root is None else root) / "references" / f"{name}.safetensors"


def read(path: Path, groups: Sequence[Group]) -> list[Logps] | None:
    """What a file holds for these groups; None where there is none, or not a whole one."""
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
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"logps": np.concatenate([x for group in logps for x in group]).astype(np.float32)}, partial)
    partial.replace(path)
