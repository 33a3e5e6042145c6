"""Where texts come from, streamed: a hub id, a folder, files, or the embedded corpus.

| source            | documents                                       | held in memory at a time |
|-------------------|-------------------------------------------------|--------------------------|
| .txt              | the whole file is one                           | a block                  |
| .jsonl            | the `text` of each line                         | a line                   |
| .parquet          | the `text` of each row                          | a row group's column     |
| .json .csv        | the `text` of each row                          | the file                 |
| a hub id          | the `text` of each row of the downloaded table  | a row (memory-mapped)    |

A folder has a file or shards per split (`train-00.parquet`, `dev.jsonl`); without such names all its files are `train`.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxllm.data import files, sources
from jaxllm.data.builtin import stdlib
from jaxllm.types import InputError

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".csv")

FRAGMENT = 2**20
"""Characters of text that are handed on at once; a longer document comes in several fragments."""

# A line end between two characters that are no white space: the usual tokenizers see the same words on both sides.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


class Fragment(NamedTuple):
    """A piece of a document, and whether the document ends with it."""

    text: str
    last: bool


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of one split. Iterating reads them anew."""

    name: str
    key: str
    """Changes when the documents do."""
    read: Callable[[], Iterator[Fragment]]

    def __iter__(self) -> Iterator[Fragment]:
        return self.read()

    def texts(self) -> Iterator[str]:
        """The fragments' texts."""
        return (fragment.text for fragment in self)


def weighted(spec: str) -> tuple[str, float]:
    """A data set and its weight: ("a.txt", 0.7) from "a.txt:0.7"; the weight is 1 where none is given."""
    name, _, number = spec.rpartition(":")
    if not name or Path(spec).exists() or not re.fullmatch(r"[-+]?\d*\.?\d+(e-?\d+)?", number):
        return spec, 1.0
    if float(number) <= 0:
        raise InputError(f"--dataset {spec}: the weight {number} is not above 0; leave the data set out instead")
    return name, float(number)


def open_documents(dataset: str, holdout: float = 0.0) -> dict[str, Documents]:
    """The splits `train` and, where there are any, `dev` and `test` of a data set.

    dataset: `builtin`, a file, a folder or a hub id (`org/name`, `org/name:config`). holdout: what share becomes dev
    where no split is called so: the end of a lone .txt, else every so-many-th document (none if there are fewer).
    Raises InputError, here for what is missing, while reading for what is malformed.
    """
    path = Path(dataset).expanduser()
    if dataset == "builtin":
        splits = {name: _of_texts(f"builtin {name}", texts) for name, texts in stdlib.documents().items()}
    elif path.is_dir() or path.is_file():
        found = split_files(path) if path.is_dir() else {"train": [path]}
        splits = {name: _of_files(paths) for name, paths in found.items()}
        if holdout and "dev" not in splits and [p.suffix for p in found["train"]] == [".txt"]:
            return splits | _cut_in_two(found["train"][0], holdout)
    else:
        splits = {name: _of_rows(f"{dataset} {name}", rows) for name, rows in sources.load(dataset).items()}
    if "train" not in splits:
        raise InputError(f"--dataset {dataset}: no train split, only {', '.join(splits)}; name a file train.jsonl")
    if holdout and "dev" not in splits:
        splits |= _every(splits["train"], max(2, round(1 / holdout)))
    return splits


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder, or of `data` in it, by split. Raises InputError where there are none."""
    for place in (folder, folder / "data"):
        paths = sorted(path for path in place.glob("*") if path.is_file() and path.suffix in SUFFIXES)
        if paths:
            return sources.by_split({path.name: path for path in paths}, str(place)) or {"train": paths}
    raise InputError(f"{folder}: no file that ends in {', '.join(SUFFIXES)}; check the folder")


def fragments(text: str) -> Iterator[Fragment]:
    """A document in fragments, cut where a tokenizer does not mind: at line ends if there are any."""
    start = 0
    while len(text) - start > FRAGMENT:
        stop = _cut(text, start)
        yield Fragment(text[start:stop], False)
        start = stop
    yield Fragment(text[start:], True)


def _cut(text: str, start: int) -> int:
    """Where the fragment from `start` ends."""
    stop = start + FRAGMENT
    return max((match.end() for match in _CUT.finditer(text, stop - FRAGMENT // 8, stop)), default=stop)


def _of_texts(name: str, texts: dict[str, str]) -> Documents:
    digest = hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest()
    return Documents(name, digest, lambda: (piece for text in texts.values() for piece in fragments(text)))


def _of_rows(name: str, rows: sources.Rows) -> Documents:
    def read() -> Iterator[Fragment]:
        for i, row in enumerate(rows):
            yield from fragments(_text(row, rows.where(i)))

    return Documents(name, f"{name} {rows.fingerprint}", read)


def _of_files(paths: Sequence[Path]) -> Documents:
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: cannot read text from {path.suffix or 'no suffix'}; give {', '.join(SUFFIXES)}")
    name = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    return Documents(name, _stamp(paths), lambda: (piece for path in paths for piece in _READERS[path.suffix](path)))


def _stamp(paths: Sequence[Path]) -> str:
    """Stands for the files' contents: hashing those would take as long as reading them."""
    found = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return json.dumps(found)


def _cut_in_two(path: Path, holdout: float) -> dict[str, Documents]:
    """The beginning of a file as train and its end as dev, divided at a line end."""
    size, key = path.stat().st_size, _stamp([path])
    with path.open("rb") as file:
        file.seek(int(size * (1 - holdout)))
        file.readline()
        cut = file.tell()
    if cut in (0, size):  # one line has no end to hold out
        return {}
    return {
        "train": Documents(str(path), f"{key} to {cut}", lambda: _txt(path, 0, cut)),
        "dev": Documents(f"end of {path}", f"{key} from {cut}", lambda: _txt(path, cut, size)),
    }


def _every(documents: Documents, period: int) -> dict[str, Documents]:
    """Every `period`-th document as dev, the others as train."""

    def read(held_out: bool) -> Iterator[Fragment]:
        number = 0
        for fragment in documents:
            if (number % period == period - 1) == held_out:
                yield fragment
            number += fragment.last

    count = 0
    for fragment in documents:
        count += fragment.last
        if count >= period:
            break
    if count < period:
        return {}
    key = f"{documents.key} every {period}"
    return {
        "train": Documents(documents.name, f"{key} not", lambda: read(False)),
        "dev": Documents(f"1 of {period} of {documents.name}", key, lambda: read(True)),
    }


def _text(row: Any, where: str) -> str:
    if "text" not in row:
        raise InputError(f"{where}: no 'text' column, there is {', '.join(map(str, row)) or 'nothing'}; rename one")
    if not isinstance(row["text"], str):
        raise InputError(f"{where}: 'text' is {type(row['text']).__name__}, not a string; mend the row")
    return row["text"]


def _txt(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Fragment]:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
    left = (path.stat().st_size if stop is None else stop) - start
    text = ""
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(4 * FRAGMENT, left)):
            left -= len(block)
            try:
                text += decoder.decode(block, final=not left)
            except UnicodeDecodeError:
                raise InputError(f"{path}: not UTF-8 before byte {file.tell()}; convert the file to UTF-8") from None
            at = 0
            while len(text) - at > FRAGMENT:
                end = _cut(text, at)
                yield Fragment(text[at:end], False)
                at = end
            text = text[at:]
    yield Fragment(text, True)


def _jsonl(path: Path) -> Iterator[Fragment]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                raise InputError(f"{where}: not UTF-8; convert the file to UTF-8") from None
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON at column {error.colno} ({error.msg}); mend the line") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: {type(row).__name__} where an object {{...}} is needed; mend the line")
            yield from fragments(_text(row, where))


def _parquet(path: Path) -> Iterator[Fragment]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet file ({str(error).splitlines()[0]}); write it again") from None
    _text(dict.fromkeys(file.schema_arrow.names, ""), str(path))
    number = 0
    for batch in file.iter_batches(batch_size=1024, columns=["text"]):
        for value in batch.column(0):
            number += 1
            yield from fragments(_text({"text": value.as_py()}, f"{path}, row {number}"))


def _whole(path: Path) -> Iterator[Fragment]:
    part = files.read(path)
    for i, row in enumerate(part.rows):
        yield from fragments(_text(row, part.where(i, None)))


_READERS: dict[str, Callable[[Path], Iterable[Fragment]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".json": _whole,
    ".csv": _whole,
}
