"""Loading a data set as rows by split, from a hub id, a folder, a pattern or a file, for every stage of training."""

from __future__ import annotations

import bisect
import contextlib
import glob
import itertools
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.data.files import READERS, Part, Row, read, suffix_of, table_part
from jaxllm.types import InputError

_SPLITS = {
    "train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "testa": "dev",
    "test": "test", "testb": "test",
}  # fmt: skip

# Known by a short name, and scripts on the hub: only their parquet conversion can be loaded.
_SCRIPTS = {"conll2003": "eriktks/conll2003", "eriktks/conll2003": "eriktks/conll2003"}
_CONVERTED = "refs/convert/parquet"


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

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, row = self._find(range(len(self))[index])
        return part.rows[row]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(part.rows for part in self.parts)  # tables iterate faster than they index

    def __len__(self) -> int:
        return self._starts[-1]


def load(dataset: str | Path) -> dict[str, Rows]:
    """The splits of a data set, by the names train, dev and test.

    dataset: what `find_files` takes; a folder written by `datasets`' save_to_disk; or a hub id, `org/name`,
    `org/name:config`, or `org/name:config:split` (the config may be empty) for one of several splits to train on.
    Raises InputError for what is missing, empty, not UTF-8 or malformed, naming file and line.
    """
    path = Path(dataset).expanduser()
    if is_saved(path):
        import datasets

        loaded = datasets.load_from_disk(str(path))
        return _tables(loaded if isinstance(loaded, dict) else {"train": loaded}, str(dataset))
    if splits := find_files(dataset, READERS):
        return {split: Rows([read(path) for path in paths]) for split, paths in splits.items()}
    if path.is_dir():
        found = ", ".join(sorted(path.name for path in path.glob("*"))[:8]) or "nothing"
        raise InputError(f"{path}: no train, dev or test file ({found}); name files like train.jsonl, or give one file")
    if suffix_of(path) in READERS or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]*)?(:[\w.-]+)?", str(dataset)):
        raise InputError(f"{dataset}: no such file or folder; check the path")
    _, _, split = str(dataset).partition(":")[2].partition(":")
    hub_id = str(dataset).removesuffix(f":{split}").removesuffix(":") if split else str(dataset)
    return _tables(_download(hub_id), hub_id, split)


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by save_to_disk of the `datasets` library."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def find_files(dataset: str | Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """The files of a data set by split; empty where there are none.

    dataset: a file, which is "train"; a pattern, `data/train-*.parquet`, all "train" where no name tells a split; or a
    folder, of which only files with these suffixes are taken: a file per split (`train.jsonl`), shards
    (`test-00000-of-00002.parquet`) or a folder per split (`train/a.jsonl`), in itself or in `data`.
    """
    path = Path(dataset).expanduser()
    if path.is_file():
        return {"train": [path]}
    if not path.is_dir():
        files = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()]
        return _group({file: split_of(file.name) for file in files}) or ({"train": files} if files else {})
    for place in (path, path / "data"):
        files = data_files(place, suffixes)
        if splits := by_split({file.name: file for file in files}, str(place)):
            return splits
        folders = [folder for folder in visible(place) if folder.is_dir()]
        splits = _group({file: split_of(folder.name) for folder in folders for file in data_files(folder, suffixes)})
        if "train" in splits or (splits and not files):  # files beside a lone folder `test` are a data set themselves
            return splits
    return {}


def data_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files with these suffixes in a folder, sorted."""
    return [path for path in visible(folder) if path.is_file() and suffix_of(path) in suffixes]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden files: macOS leaves ._train.jsonl beside train.jsonl."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def split_of(name: str) -> str | None:
    """The split that a name tells: "dev" for validation-00000.parquet, None for latest.jsonl."""
    return next((_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS), None)


def _group(splits: Mapping[Any, str | None]) -> dict[str, list[Any]]:
    """Things by split, given the split of each; those of none are left out."""
    found = {split: [x for x, own in splits.items() if own == split] for split in ("train", "dev", "test")}
    return {split: members for split, members in found.items() if members}


def by_split(named: Mapping[str, Any], owner: str, remedy: str = "keep one") -> dict[str, list[Any]]:
    """Groups things by the split that their names tell.

    The names of one split may differ in digits alone: they are shards. Raises InputError for others.
    """
    splits = _group({name: split_of(name) for name in named})
    for split, members in splits.items():
        if len({re.sub(r"\d+", "", name) for name in members}) > 1:
            raise InputError(f"{owner}: {' and '.join(members[:3])} could each be the {split} split; {remedy}")
    return {split: [named[name] for name in members] for split, members in splits.items()}


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Silences the hub client's line for each new attempt: where all attempts fail, the exception says why."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _download(dataset: str) -> Mapping[str, Any]:
    import datasets  # 2 s, and local text files do without

    name, _, config = dataset.partition(":")
    options = {"name": config} if config else {}
    try:
        with quiet_hub():
            if name in _SCRIPTS:
                return datasets.load_dataset(_SCRIPTS[name], revision=_CONVERTED, **options)
            try:
                return datasets.load_dataset(name, **options)
            except RuntimeError as error:
                if "scripts are no longer supported" not in str(error):
                    raise
                return datasets.load_dataset(name, revision=_CONVERTED, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{dataset}: no such file or folder, and the hub says: {reason}") from error


def _tables(loaded: Mapping[str, Any], dataset: str, chosen: str = "") -> dict[str, Rows]:
    """The splits of a `datasets.DatasetDict`.

    chosen: the split to train on; its companions (test_sft of train_sft) are the others. Raises InputError where
    several splits could be one, and for a split that is not there.
    """
    if chosen and chosen not in loaded:
        raise InputError(f"{dataset}: no split {chosen}; give one of {', '.join(loaded)}")
    named = {split: table for split, table in loaded.items() if split in _SPLITS} or dict(loaded)
    if chosen:
        named = {split: table for split, table in loaded.items() if _kind(split) == _kind(chosen)}
        if split_of(chosen) != "train":
            named = {"train": loaded[chosen]}
    parts = {split: table_part(f"{dataset} {split}", table) for split, table in named.items()}
    config = "" if ":" in dataset else ":"
    splits = by_split(parts, dataset, f"name one, as in {dataset}{config}:{next(iter(named), '')}")
    if not splits:
        raise InputError(
            f"{dataset}: no train, dev or test split ({', '.join(loaded)}); save the one you want to a file"
        )
    return {split: Rows(found) for split, found in splits.items()}


def _kind(split: str) -> str:
    """What is left of the name of a split without the word that tells train from test: "_sft" of train_sft."""
    return "".join(word for word in re.split(r"([^a-z]+)", split.lower()) if word not in _SPLITS)
