"""Streaming the documents of a text corpus: a hub id, a folder, files, or the embedded corpus.

| source             | documents                                       | held in memory at a time |
|--------------------|-------------------------------------------------|--------------------------|
| .txt               | the whole file is one                           | a block                  |
| .jsonl             | the `text` of each line                         | a line                   |
| .parquet           | the `text` of each row                          | a row group's column     |
| .json .csv .tsv    | the `text` of each row                          | the file                 |
| .arrow, saved sets | the `text` of each row                          | a row (memory-mapped)    |
| a hub id           | the `text` of each row of the downloaded table  | a row (memory-mapped)    |

Text formats may be compressed (`train.jsonl.gz`, `train.jsonl.zst`). A folder is divided as in `sources.find_files`;
where no name tells a split, all its files are `train`. Files on other machines (`https://`, `gs://` ...) are downloaded
to the cache, each when it is its turn, while the texts before it become tokens.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxllm.data import files, sources
from jaxllm.data.builtin import requests, stdlib
from jaxllm.data.remote import File, RemotePath, is_url, path_of
from jaxllm.data.report import MAX_BAD_ROWS, BadRow, Report, check_text, usable
from jaxllm.data.splits import choose
from jaxllm.types import InputError

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")

BUILTIN: Mapping[str, Callable[[], dict[str, dict[str, str]]]] = {
    "builtin": stdlib.documents, "builtin-requests": requests.documents,
}  # fmt: skip
"""Embedded corpora: the source and documentation of Python's standard library; requests to a shop."""

FRAGMENT = 2**20
"""The largest number of characters in a fragment; a longer document comes in several."""

# A line end between two characters that are not white space: cut there, the usual tokenizers find the same words.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


class Fragment(NamedTuple):
    """A piece of a document, and whether the document ends with it."""

    text: str
    last: bool


Located = tuple[Any, str]
"""A row, or the fragments of a text file, and its location."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of one split. Iterating reads them anew."""

    name: str
    key: str
    """A string that changes when the documents change."""
    read: Callable[[], Iterator[Fragment]]
    report: Report = dataclasses.field(default_factory=Report, compare=False)
    """The rows that the last pass to the end left out, and the columns that nothing reads."""

    def __iter__(self) -> Iterator[Fragment]:
        return self.read()

    def texts(self) -> Iterator[str]:
        """The fragments' texts."""
        return (fragment.text for fragment in self)


def parse_weight(spec: str) -> tuple[str, float]:
    """A data set and its weight: ("a.txt", 0.7) from "a.txt:0.7"; the weight is 1 where none is given."""
    name, _, number = spec.rpartition(":")
    port = is_url(name) and "/" not in name.partition("://")[2]  # https://host:8000 has no weight
    if not name or port or Path(spec).exists() or not re.fullmatch(r"[-+]?\d*\.?\d+(e-?\d+)?", number):
        return spec, 1.0
    if float(number) <= 0:
        raise InputError(f"--dataset {spec}: the weight {number} is not above 0; leave the data set out instead")
    return name, float(number)


def open_documents(
    dataset: str, holdout: float = 0.0, max_bad_rows: float = MAX_BAD_ROWS, split: str = ""
) -> dict[str, Documents]:
    """The splits `train` and, where there are any, `dev` and `test` of a data set.

    dataset: of BUILTIN, or what `sources.load` takes. holdout: the share that becomes dev where there is no dev split:
    the end of a single .txt file, otherwise every n-th document (none if there are fewer than n). max_bad_rows: the
    share of rows whose text may be null or no Unicode; they are left out. split: as of `sources.load`. Raises
    InputError for missing files; reading the documents raises it for malformed ones.
    """
    path = path_of(dataset)
    if dataset in BUILTIN:
        named = BUILTIN[dataset]()
        if split:
            chosen = choose(named, split, dataset)
            named = {name: dict(itertools.chain(*(x.items() for x in found))) for name, found in chosen.items()}
        splits = {name: _of_texts(f"{dataset} {name}", texts) for name, texts in named.items()}
    elif not sources.is_saved(path) and (found := find_text_files(dataset, split)):
        splits = {name: _of_files(paths, max_bad_rows) for name, paths in found.items()}
        if holdout and "dev" not in splits and [p.suffix for p in found["train"]] == [".txt"]:
            return splits | _cut_in_two(found["train"][0], holdout)
    else:
        splits = {}
        for name, rows in sources.load(dataset, split).items():
            full, read = f"{dataset} {name}", functools.partial(_located, rows)
            splits[name] = _of_rows(full, f"{full} {rows.fingerprint}", read, max_bad_rows)
    if "train" not in splits:
        raise InputError(f"--dataset {dataset}: no train split, only {', '.join(splits)}; name a file train.jsonl")
    if holdout and "dev" not in splits:
        splits |= _every(splits["train"], max(2, round(1 / holdout)))
    return splits


def find_text_files(dataset: str, split: str = "") -> dict[str, list[File]]:
    """The files of a data set by split, empty for a hub id. Raises InputError for a folder that holds none."""
    path = path_of(dataset)
    found = sources.find_files(path, SUFFIXES, split)
    if path.is_dir() and not found:
        if not (paths := sources.data_files(path, SUFFIXES) or sources.data_files(path / "data", SUFFIXES)):
            raise InputError(f"{path}: no file that ends in {', '.join(SUFFIXES)}; check the folder")
        return {"train": paths}
    return found


def split_document(text: str) -> Iterator[Fragment]:
    """Splits a document into fragments, at line ends if there are any, where tokenizers see no difference."""
    start = 0
    while len(text) - start > FRAGMENT:
        stop = _cut(text, start)
        yield Fragment(text[start:stop], False)
        start = stop
    yield Fragment(text[start:], True)


def _cut(text: str, start: int) -> int:
    """The end of the fragment that begins at `start`."""
    stop = start + FRAGMENT
    return max((match.end() for match in _CUT.finditer(text, stop - FRAGMENT // 8, stop)), default=stop)


def _of_texts(name: str, texts: dict[str, str]) -> Documents:
    digest = hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest()
    return Documents(name, digest, lambda: (piece for text in texts.values() for piece in split_document(text)))


def _of_rows(name: str, key: str, read: Callable[[], Iterator[Located]], max_bad_rows: float) -> Documents:
    """Documents of rows, without those that are bad in their content."""
    report = Report(max_bad_rows=max_bad_rows)

    def checked(row: Any, where: str) -> Any:
        """The text of a row, or the fragments of a file as they are."""
        if not isinstance(row, Mapping):
            return row
        report.unread |= dict.fromkeys(column for column in row if column != "text")
        return _text(row, where)

    def fragments() -> Iterator[Fragment]:
        for found in usable(read(), checked, report):
            yield from split_document(found) if isinstance(found, str) else found

    return Documents(name, key, fragments, report)


def _located(rows: sources.Rows) -> Iterator[Located]:
    return ((row, rows.where(i)) for i, row in enumerate(rows))


def _of_files(paths: Sequence[File], max_bad_rows: float) -> Documents:
    for path in paths:
        if (suffix := files.suffix_of(path)) not in SUFFIXES:
            raise InputError(f"{path}: cannot read text from {suffix or 'no suffix'}; give {', '.join(SUFFIXES)}")
    name = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")

    def read() -> Iterator[Located]:
        for path in paths:
            yield from _READERS.get(files.suffix_of(path), _whole)(path)

    return _of_rows(name, _stamp(paths), read, max_bad_rows)


def _stamp(paths: Sequence[File]) -> str:
    """A key of the files by name, size and time: hashing the contents would take as long as reading them."""

    def stamp(path: File) -> list[Any]:
        if isinstance(path, RemotePath):
            return path.stamp()
        return [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]

    return json.dumps([stamp(path) for path in paths])


def _cut_in_two(path: File, holdout: float) -> dict[str, Documents]:
    """Splits a text file at a line end: its beginning is train, its end dev."""
    size, key = Path(path).stat().st_size, _stamp([path])
    with Path(path).open("rb") as file:
        file.seek(int(size * (1 - holdout)))
        file.readline()
        cut = file.tell()
    if cut in (0, size):  # a file of one line
        return {}
    return {
        "train": Documents(str(path), f"{key} to {cut}", lambda: _txt(path, 0, cut)),
        "dev": Documents(f"end of {path}", f"{key} from {cut}", lambda: _txt(path, cut, size)),
    }


def _every(documents: Documents, period: int) -> dict[str, Documents]:
    """Splits off every `period`-th document as dev; the others are train."""

    def read(held_out: bool) -> Iterator[Fragment]:
        number = 0
        for fragment in documents:
            if (number % period == period - 1) == held_out:
                yield fragment
            number += fragment.last

    ends = (fragment for fragment in documents if fragment.last)
    if sum(1 for _ in itertools.islice(ends, period)) < period:
        return {}
    key = f"{documents.key} every {period}"
    return {
        "train": Documents(documents.name, f"{key} not", lambda: read(False), documents.report),
        "dev": Documents(f"1 of {period} of {documents.name}", key, lambda: read(True)),
    }


def _text(row: Any, where: str) -> str:
    if "text" not in row:
        raise InputError(f"{where}: no 'text' column, there is {', '.join(map(str, row)) or 'nothing'}; rename one")
    if row["text"] is None:
        raise BadRow(f"{where}: its text is absent; mend the row", "text is absent")
    check_text(row["text"], where, "text")
    if not isinstance(row["text"], str):
        raise InputError(f"{where}: 'text' is {type(row['text']).__name__}, not a string; mend the row")
    return row["text"]


def _txt(path: File, start: int = 0, stop: int | None = None) -> Iterator[Fragment]:
    """A file as one document, from byte `start` to before `stop`."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
    text, at, block = "", start, None
    with files.open_bytes(path) as file:
        if start:
            file.seek(start)  # which compressed files cannot
        while block != b"":
            block = file.read(4 * FRAGMENT if stop is None else min(4 * FRAGMENT, stop - at))
            at += len(block)
            try:
                text += decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                raise InputError(f"{path}: not UTF-8 before byte {at}; convert the file to UTF-8") from None
            *complete, rest = split_document(text)
            yield from complete
            text = rest.text
    yield Fragment(text, True)


def _jsonl(path: File) -> Iterator[Located]:
    with files.open_bytes(path) as file:
        for number, row in files.json_rows(file, path):
            yield row, f"{path}, line {number}"


def _parquet(path: File) -> Iterator[Located]:
    import pyarrow.parquet as pq  # read here, because files.read holds all columns of the whole file

    with files.table_errors(path):
        file = pq.ParquetFile(os.fspath(path))
    others = dict.fromkeys(file.schema_arrow.names, "")
    _text(others, str(path))
    column = (value for batch in file.iter_batches(batch_size=1024, columns=["text"]) for value in batch.column(0))
    for number, value in enumerate(column, start=1):
        yield {**others, "text": value.as_py()}, f"{path}, row {number}"


def _whole(path: File) -> Iterator[Located]:
    return _located(sources.Rows([files.read(path)]))


_READERS: dict[str, Callable[[File], Iterator[Located]]] = {
    ".txt": lambda path: iter([(_txt(path), str(path))]),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
