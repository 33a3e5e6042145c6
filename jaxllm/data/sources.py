"""Loading a data set as rows by split, from a hub id, a folder, a pattern or a file, for every stage of training.

Folders, patterns and files may be on another machine: `path_of` tells, and all paths here are of either kind.
"""

from __future__ import annotations

import bisect
import glob
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.data.files import READERS, Part, Row, read, suffix_of, table_part
from jaxllm.data.hub import download_dataset
from jaxllm.data.remote import File, RemotePath, path_of
from jaxllm.data.splits import WORDS, by_split, choose, group, split_of
from jaxllm.types import InputError


class Rows(Sequence[Row]):
    """The rows of a split, as dictionaries, that know where they came from.

    `class_names` maps a column of class numbers to the names of the classes.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._starts = list(itertools.accumulate((len(part.rows) for part in parts), initial=0))
        self.class_names: Mapping[str, list[str]] = parts[0].class_names

    @property
    def fingerprint(self) -> str:
        """Changes with the contents of a hub data set, as the `datasets` library computes it; empty for text files."""
        return " ".join(str(getattr(part.rows, "_fingerprint", "")) for part in self.parts)

    def _find(self, row: int) -> tuple[Part, int]:
        part = bisect.bisect_right(self._starts, row) - 1
        return self.parts[part], row - self._starts[part]

    def where(self, row: int, word: int | None = None) -> str:
        """The location of a row for messages, "train.conll, line 12", or of one of its words, counted from 0."""
        part, row = self._find(row)
        return part.where(row, word)

    def file(self, row: int) -> str:
        """The name of the file, or of the split of a hub data set, that a row is in."""
        return self._find(row)[0].name

    def fault(self, row: int) -> str:
        """Why a row of a file of columns could not be read; "" for others."""
        part, row = self._find(row)
        return part.faults.get(row, "")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, row = self._find(range(len(self))[index])
        return part.rows[row]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(part.rows for part in self.parts)  # tables iterate faster than they index

    def __len__(self) -> int:
        return self._starts[-1]


def load(dataset: str | File, split: str = "") -> dict[str, Rows]:
    """The splits of a data set, by the names train, dev and test.

    dataset: what `find_files` takes; a folder written by `datasets`' save_to_disk; or a hub id, `org/name`,
    `org/name:config`, or `org/name:config:split` (the config may be empty) for one of several splits to train on.
    split: which of its own splits or files are train, dev and test, as `splits.parse_splits` reads it; by default their
    names tell. Raises InputError for what is missing, empty, not UTF-8 or malformed, naming file and line.
    """
    path = path_of(dataset)
    if is_saved(path):
        import datasets

        loaded = datasets.load_from_disk(str(path))
        return _tables(loaded if isinstance(loaded, dict) else {"train": loaded}, str(dataset), split=split)
    if splits := find_files(path, READERS, split):
        return {name: Rows([read(path) for path in paths]) for name, paths in splits.items()}
    if path.is_dir():
        found = ", ".join(sorted(path.name for path in path.glob("*"))[:8]) or "nothing"
        raise InputError(f"{path}: no train, dev or test file ({found}); name files like train.jsonl, or give one file")
    if suffix_of(path) in READERS or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]*)?(:[\w.-]+)?", str(dataset)):
        raise InputError(f"{dataset}: no such file or folder; check the path")
    _, _, chosen = str(dataset).partition(":")[2].partition(":")
    if chosen and split:
        raise InputError(f"--split {split}: {dataset} names a split to train on already; give one")
    hub_id = str(dataset).removesuffix(f":{chosen}").removesuffix(":") if chosen else str(dataset)
    return _tables(download_dataset(hub_id), hub_id, chosen, split)


def is_saved(folder: File) -> bool:
    """Whether a folder was written by save_to_disk of the `datasets` library."""
    names = ("dataset_dict.json", "state.json")
    if isinstance(folder, RemotePath):  # one question
        return folder.is_dir() and any(file.name in names for file in folder.glob("*"))
    return any((folder / name).is_file() for name in names)


def find_files(dataset: str | File, suffixes: Collection[str] | None, split: str = "") -> dict[str, list[File]]:
    """The files of a data set by split; empty where there are none.

    dataset: a file, which is "train"; a pattern, `data/train-*.parquet`, all "train" where no name tells a split; or a
    folder, of which only files with these suffixes are taken: a file per split (`train.jsonl`), shards
    (`test-00000-of-00002.parquet`) or a folder per split (`train/a.jsonl`, `train/2024/a.jsonl`), in itself or in
    `data`. suffixes: None for all. split: names files, or folders, for each split; by default their own names tell.
    Raises InputError for such a name that is not there.
    """
    path = path_of(dataset)
    if split:
        named = _all_files(path, suffixes)
        return choose(named, split, str(dataset)) if named else {}
    if path.is_file():
        return {"train": [path]}
    if not path.is_dir():
        files = matching(path)
        return group({file: split_of(file.name) for file in files}) or ({"train": files} if files else {})
    for place in (path, path / "data"):
        files = data_files(place, suffixes)
        if splits := by_split({file.name: file for file in files}, str(place)):
            return splits
        folders = _folders(place)
        splits = group({file: split_of(folder.name) for folder in folders for file in files_below(folder, suffixes)})
        if "train" in splits or (splits and not files):  # files beside a lone folder `test` are a data set themselves
            return splits
    return {}


def _all_files(path: File, suffixes: Collection[str] | None) -> dict[str, File]:
    """The file, those that fit the pattern, or those in the folder and in its folders, by their names in it."""
    if not path.is_dir():
        return {f"{file.parent.name}/{file.name}": file for file in ([path] if path.is_file() else matching(path))}
    found: dict[str, File] = {}
    for prefix, place in (("", path), ("data/", path / "data")):
        found |= {f"{prefix}{file.name}": file for file in data_files(place, suffixes)}
        for folder in _folders(place):
            found |= {f"{prefix}{folder.name}/{file.name}": file for file in data_files(folder, suffixes)}
    return found


def matching(pattern: File) -> list[File]:
    """The files that fit a pattern, sorted."""
    if isinstance(pattern, RemotePath):
        return [file for file in pattern.matches() if file.is_file()] if pattern.is_pattern else []
    return [file for file in map(Path, sorted(glob.glob(str(pattern), recursive=True))) if file.is_file()]


def _folders(place: File) -> list[File]:
    return [folder for folder in visible(place) if folder.is_dir()]


def data_files(folder: File, suffixes: Collection[str] | None) -> list[File]:
    """The files with these suffixes in a folder, sorted; None for all."""
    return [path for path in visible(folder) if (suffixes is None or suffix_of(path) in suffixes) and path.is_file()]


def files_below(folder: File, suffixes: Collection[str] | None) -> list[File]:
    """The files with these suffixes in a folder and in all folders below it."""
    below = (file for inner in _folders(folder) for file in files_below(inner, suffixes))
    return [*data_files(folder, suffixes), *below]


def visible(folder: File) -> list[File]:
    """What is in a folder, sorted, without hidden files: macOS leaves ._train.jsonl beside train.jsonl."""
    listed: list[File] = [*folder.glob("*")]
    return sorted(path for path in listed if not path.name.startswith("."))


def _tables(loaded: Mapping[str, Any], dataset: str, chosen: str = "", split: str = "") -> dict[str, Rows]:
    """The splits of a `datasets.DatasetDict`.

    chosen: the split to train on; its companions (test_sft of train_sft) are the others. split: all of them, as of
    `load`. Raises InputError where several splits could be one, and for a split that is not there.
    """
    if split:
        parts = {name: table_part(f"{dataset} {name}", table) for name, table in loaded.items()}
        return {name: Rows(found) for name, found in choose(parts, split, dataset).items()}
    if chosen and chosen not in loaded:
        raise InputError(f"{dataset}: no split {chosen}; give one of {', '.join(loaded)}")
    named = {name: table for name, table in loaded.items() if name in WORDS} or dict(loaded)
    if chosen:
        named = {name: table for name, table in loaded.items() if _kind(name) == _kind(chosen)}
        if split_of(chosen) != "train":
            named = {"train": loaded[chosen]}
    parts = {name: table_part(f"{dataset} {name}", table) for name, table in named.items()}
    config = "" if ":" in dataset else ":"
    splits = by_split(parts, dataset, f"name one, as in {dataset}{config}:{next(iter(named), '')}")
    if not splits:
        raise InputError(
            f"{dataset}: no train, dev or test split ({', '.join(loaded)}); save the one you want to a file"
        )
    return {name: Rows(found) for name, found in splits.items()}


def _kind(split: str) -> str:
    """What is left of the name of a split without the word that tells train from test: "_sft" of train_sft."""
    return "".join(word for word in re.split(r"([^a-z]+)", split.lower()) if word not in WORDS)
