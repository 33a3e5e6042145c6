"""Which parts of a data set are its splits train, dev and test: told by their names, or named by `--split`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from jaxllm.types import InputError, nearest

T = TypeVar("T")

SPLITS = ("train", "dev", "test")

WORDS = {
    "train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "testa": "dev",
    "test": "test", "testb": "test",
}  # fmt: skip
"""The split that a word in a name tells."""


def split_of(name: str) -> str | None:
    """The split that a name tells: "dev" for validation-00000.parquet, None for latest.jsonl."""
    return next((WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS), None)


def group(splits: Mapping[T, str | None]) -> dict[str, list[T]]:
    """Things by split, given the split of each; those of none are left out."""
    found = {split: [x for x, own in splits.items() if own == split] for split in SPLITS}
    return {split: members for split, members in found.items() if members}


def by_split(named: Mapping[str, Any], owner: str, remedy: str = "keep one") -> dict[str, list[Any]]:
    """Groups things by the split that their names tell.

    The names of one split may differ in digits alone: they are shards. Raises InputError for others.
    """
    splits = group({name: split_of(name) for name in named})
    for split, members in splits.items():
        if len({re.sub(r"\d+", "", name) for name in members}) > 1:
            raise InputError(f"{owner}: {' and '.join(members[:3])} could each be the {split} split; {remedy}")
    return {split: [named[name] for name in members] for split, members in splits.items()}


def parse_splits(text: str) -> dict[str, list[str]]:
    """The names of each split: {"train": ["a", "b"], "dev": ["c"]} of "train=a+b,dev=c". Raises InputError."""
    found: dict[str, list[str]] = {}
    for part in text.split(",") if text else ():
        split, _, names = part.strip().partition("=")
        if split not in SPLITS:
            raise InputError(f"--split {text}: {nearest(split, SPLITS)}")
        if split in found:
            raise InputError(f"--split {text}: {split} is there twice; join its names by +, as in {split}=a+b")
        found[split] = names.split("+")
        if not all(found[split]):
            raise InputError(f"--split {text}: give {split}=NAME, or {split}=NAME+NAME")
    if found and "train" not in found:
        raise InputError(f"--split {text}: it does not say what to train on; add train=NAME")
    return found


def choose(named: Mapping[str, T], text: str, owner: str) -> dict[str, list[T]]:
    """The parts of a data set by split, as the value of `--split` says.

    named: all parts; a name may be a path, "data/train-0001.jsonl.gz", which goes by that, by its file name, by that
    without its suffixes, also without the number of a shard, and by the name of its folder. Raises InputError for a
    name that fits no part.
    """
    found: dict[str, list[T]] = {}
    for split, names in parse_splits(text).items():
        chosen = [own for name in names for own in _fitting(named, name)]
        if missing := [name for name in names if not _fitting(named, name)]:
            listed = ", ".join([*named][:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")
            raise InputError(f"--split {split}={missing[0]}: not in {owner}, which has {listed or 'nothing'}")
        found[split] = [named[own] for own in dict.fromkeys(chosen)]
    return found


def _fitting(named: Mapping[str, Any], name: str) -> Sequence[str]:
    """The parts that a name means: those it fits in full, else those that it fits in the next shorter way."""
    ways = [_ways(own) for own in named]
    for way in range(len(ways[0]) if ways else 0):
        if fits := [own for own, forms in zip(named, ways, strict=True) if forms[way] == name]:
            return fits
    return [own for own, forms in zip(named, ways, strict=True) if any(fnmatch.fnmatch(x, name) for x in forms[:2])]


def _ways(own: str) -> tuple[str, ...]:
    path = PurePosixPath(own)
    bare = re.sub(r"(\.[A-Za-z]\w*)?(\.gz|\.zst|\.bz2)?$", "", path.name, count=1)
    return own, path.name, bare, re.sub(r"[-_.]?\d+([-_]of[-_]\d+)?$", "", bare), path.parent.name
