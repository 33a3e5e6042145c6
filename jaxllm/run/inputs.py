"""What a run's rows are made of, as hashes in its config.json: data files, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATA = ("dataset", "eval_dataset")
"""Fields that name data."""

_BLOCKS, _BLOCK, _SMALL = 256, 1 << 20, 1 << 16


def hash_of(text: str) -> str:
    """A hash of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def contents(config: Any) -> dict[str, str]:
    """A hash of the contents of the files that each of DATA names, by field; not where one of them is no local file."""
    named = {name: getattr(config, name, "") for name in DATA}
    found = {name: _hash_data([x] if isinstance(x, str) else list(x)) for name, x in named.items() if x}
    return {name: x for name, x in found.items() if x}


def _hash_data(datasets: list[str]) -> str | None:
    """A hash of data sets, each a file or folder, with a weight if wanted as in a.txt:0.7."""
    digest = hashlib.sha256()
    for dataset in datasets:
        path, weight = _path_of(dataset)
        if not path.exists():
            return None
        folder = path.is_dir()
        files = sorted(x for x in path.rglob("*") if x.is_file()) if folder else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if folder else ""
            digest.update(f"{name} {weight} {file.stat().st_size} ".encode())
            _hash_file(file, len(files), digest)
    return digest.hexdigest()


def _path_of(dataset: str) -> tuple[Path, str]:
    """The path of a data set, and its weight as text."""
    path = Path(dataset).expanduser()
    if path.exists() or ":" not in dataset:
        return path, ""
    text, _, weight = dataset.rpartition(":")
    return Path(text).expanduser(), weight


def _hash_file(path: Path, count: int, digest: Any) -> None:
    """Adds a file, one of `count`: all of it, or of a large one blocks at even distances, so that none takes long."""
    blocks, block = max(1, _BLOCKS // count), _BLOCK if count <= _BLOCKS else _SMALL
    size = path.stat().st_size
    with path.open("rb") as file:
        for i in range(min(blocks, -(-size // block))):
            if size > blocks * block:
                file.seek(i * (size - block) // max(1, blocks - 1))
            digest.update(file.read(block))


def encoding(tokenizer: Any) -> dict[str, str]:
    """Hashes of a tokenizer's vocabulary and of its chat template."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    template = getattr(tokenizer, "chat_template", None)
    return {"tokenizer": hash_of(vocabulary), "chat template": hash_of(json.dumps(template))}


def changed_files(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What changed of a run's data that is named as files; not of folders, which may hold other files as well.

    there, here: config.json then and now.
    """
    given = {name: here["config"][name] for name in _changed(there, here)}
    each = {name: [x] if isinstance(x, str) else list(x) for name, x in given.items()}
    return [_words(name, here) for name, data in each.items() if all(_path_of(x)[0].is_file() for x in data)]


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    old, new = there.get("contents", {}), here.get("contents", {})
    return [name for name in DATA if name in old and name in new and old[name] != new[name]]


def _words(name: str, here: Mapping[str, Any]) -> str:
    return f"the contents of --{name.replace('_', '-')} {here['config'][name]} changed"


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Why the rows of a run are not those that it began with, in words. there, here: config.json then and now."""
    found = [_words(name, here) for name in _changed(there, here)]
    old, new = there.get("encoding", {}), here.get("encoding", {})
    found += [f"another {name}" for name in old if new.get(name, old[name]) != old[name]]
    if not found and "began" not in there and here.get("dated"):
        found.append("the chat template writes today's date, and the run does not say when it began")
    return "; ".join(found) or "its rows, tokenizer, chat template, or versions of packages changed"
