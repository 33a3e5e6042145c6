"""Where rows come from: a hub id, a folder, or a file, read the same way for every stage."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from jaxllm.data.files import READERS, Part, Row, class_names, read
from jaxllm.types import InputError

_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}

# Known by a short name, and scripts on the hub: only their parquet conversion can be loaded.
_SCRIPTS = {"conll2003": "eriktks/conll2003", "eriktks/conll2003": "eriktks/conll2003"}
_CONVERTED = "refs/convert/parquet"


class Rows(Sequence[Row]):
    """The rows of a split, as dictionaries, that know where they came from.

    `class_names` maps a column of class numbers to the names it counts.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._starts = list(itertools.accumulate((len(part.rows) for part in parts), initial=0))
        self._rows = parts[0].rows if len(parts) == 1 else [row for part in parts for row in part.rows]
        self.class_names: Mapping[str, list[str]] = parts[0].class_names

    @property
    def fingerprint(self) -> str:
        """Stands for the contents of a hub data set, as the `datasets` library computes it; empty for files."""
        return " ".join(str(getattr(part.rows, "_fingerprint", "")) for part in self._parts)

    def where(self, row: int, word: int | None = None) -> str:
        """A row's place for messages, such as "train.conll, line 12"; or that of one of its words, counted from 0."""
        part = bisect.bisect_right(self._starts, row) - 1
        return self._parts[part].where(row - self._starts[part], word)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return (
            [self._rows[i] for i in range(*index.indices(len(self)))] if isinstance(index, slice) else self._rows[index]
        )

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)  # a hub data set iterates faster than it indexes

    def __len__(self) -> int:
        return self._starts[-1]


def load(dataset: str | Path) -> dict[str, Rows]:
    """The splits of a data set, by the names train, dev and test.

    dataset: a folder with a file per split (`train.jsonl`, `validation.parquet`, `data/test-00000-of-00002.parquet`);
    a single file, which is then "train"; or a hub id, `org/name` or `org/name:config`.
    Raises InputError for what is missing, empty, not UTF-8 or malformed, naming file and line.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return {"train": Rows([read(path)])}
    if path.suffix in READERS or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", str(dataset)):
        raise InputError(f"{dataset}: no such file or folder; check the path")
    return _hub(str(dataset))


def _folder(folder: Path) -> dict[str, Rows]:
    for place in (folder, folder / "data"):
        files = sorted(path for path in place.glob("*") if path.is_file() and path.suffix in READERS)
        if splits := by_split({path.name: path for path in files}, str(place)):
            return {split: Rows([read(path) for path in paths]) for split, paths in splits.items()}
    found = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
    raise InputError(f"{folder}: no train, dev or test file ({found}); name files like train.jsonl, or give one file")


def by_split(names: Mapping[str, Any], owner: str) -> dict[str, list[Any]]:
    """Groups things by the split their names tell. Those of one split may differ in digits alone: they are shards."""
    splits: dict[str, list[str]] = {split: [] for split in ("train", "dev", "test")}
    for name in names:
        if split := next((_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS), None):
            splits[split].append(name)
    for split, members in splits.items():
        if len({re.sub(r"\d+", "", name) for name in members}) > 1:
            raise InputError(f"{owner}: {' and '.join(members[:3])} could each be the {split} split; keep one")
    return {split: [names[name] for name in members] for split, members in splits.items() if members}


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Without a line for each time that the hub's client tries again: where all fails, what is raised says why."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _hub(dataset: str) -> dict[str, Rows]:
    import datasets  # 2 s, and local files do without

    name, _, config = dataset.partition(":")
    options = {"name": config} if config else {}
    try:
        with quiet_hub():
            if name in _SCRIPTS:
                loaded = datasets.load_dataset(_SCRIPTS[name], revision=_CONVERTED, **options)
            else:
                try:
                    loaded = datasets.load_dataset(name, **options)
                except RuntimeError as error:
                    if "scripts are no longer supported" not in str(error):
                        raise
                    loaded = datasets.load_dataset(name, revision=_CONVERTED, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{dataset}: no such file or folder, and the hub says: {reason}") from error
    named = {split: rows for split, rows in loaded.items() if split in _SPLITS} or dict(loaded)
    splits = by_split({split: (split, rows) for split, rows in named.items()}, dataset)
    if not splits:
        raise InputError(
            f"{dataset}: no train, dev or test split ({', '.join(loaded)}); save the one you want to a file"
        )

    def part(split: str, rows: Any) -> Part:
        names = class_names(rows.features.to_dict())
        return Part(f"{dataset} {split}", rows, range(1, len(rows) + 1), "row", names)

    return {split: Rows([part(*member) for member in members]) for split, members in splits.items()}
