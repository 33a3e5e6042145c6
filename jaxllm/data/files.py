"""One data file as rows, every bad row named by file and line.

| suffix           | a row                                                                                   |
|------------------|-----------------------------------------------------------------------------------------|
| .jsonl           | the object on a line                                                                    |
| .json            | an object of a list, or of the list under "data"; a file of JSON lines is read as such  |
| .parquet         | a row, with the class names that the `datasets` library keeps in the schema             |
| .csv             | a record, keyed by the header; every value is a string                                  |
| .txt             | the whole file, as {"text": ...}: one document                                          |
| .conll .bio .iob | a sentence, as {"tokens": [...], "ner_tags": [...]}: word first, tag last on each line  |
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.types import InputError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one file, or of one split of a hub data set, and the line or row number of each."""

    name: str
    rows: Sequence[Row]
    numbers: Sequence[int]
    unit: str = "line"
    class_names: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    word_lines: Sequence[Sequence[int]] = ()  # .conll: the line of every word

    def where(self, row: int, word: int | None) -> str:
        if word is not None and self.word_lines:
            return f"{self.name}, line {self.word_lines[row][word]}"
        place = f"{self.name}, {self.unit} {self.numbers[row]}"
        return place if word is None else f"{place}, word {word + 1}"


def read(path: Path) -> Part:
    """The rows of a file. Raises InputError for a suffix not in READERS, and for what is wrong inside."""
    if path.suffix not in READERS:
        raise InputError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; give {' '.join(READERS)}")
    part = READERS[path.suffix](path)
    if not len(part.rows):
        raise InputError(f"{path}: holds no rows; check the file")
    return part


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: byte {error.start} is not UTF-8; convert the file to UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; check the path")
    return text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines, which also splits at characters that may stand inside a text, such as U+2028.
    return ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1))


def _jsonl(path: Path, text: str | None = None) -> Part:
    rows, numbers = [], []
    for number, line in _lines(_text(path) if text is None else text):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not JSON at column {error.colno} ({error.msg}); mend the line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number}: {type(row).__name__} where an object {{...}} is needed; mend the line"
            )
        rows.append(row)
        numbers.append(number)
    return Part(str(path), rows, numbers)


def _json(path: Path) -> Part:
    text = _text(path)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _jsonl(path, text)
        place = f"{path}, line {error.lineno}"
        raise InputError(f"{place}: not JSON at column {error.colno} ({error.msg}); mend the line") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise InputError(f'{path}: neither a list of objects nor {{"data": [...]}}; wrap the rows in one of them')
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, row {number}: {type(row).__name__} where an object {{...}} is needed; mend the row"
            )
    return Part(str(path), rows, range(1, len(rows) + 1), "row")


def _parquet(path: Path) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet file ({str(error).splitlines()[0]}); write it again") from error
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = class_names(metadata.get("info", {}).get("features") or {})
    return Part(str(path), table.to_pylist(), range(1, len(table) + 1), "row", names)


def _csv(path: Path) -> Part:
    csv.field_size_limit(2**31 - 1)  # documents are longer than the module's 128 KiB
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[Row] = []
    numbers: list[int] = []
    header: list[str] = []
    number = 1
    try:
        for values in reader:
            if not header:
                header = values
            elif values and len(values) != len(header):
                fault = f"{len(values)} values where the header names {len(header)}"
                raise InputError(f"{path}, line {number}: {fault}; quote values with commas")
            elif values:
                rows.append(dict(zip(header, values, strict=True)))
                numbers.append(number)
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: {error}; check the quotes") from error
    return Part(str(path), rows, numbers)


def _txt(path: Path) -> Part:
    return Part(str(path), [{"text": _text(path)}], [1])


def _conll(path: Path) -> Part:
    # Only spaces and tabs are white space here: a word may be a no-break space.
    lines = [(number, line.rstrip(" \t\r")) for number, line in _lines(_text(path))]
    data = [line for _, line in lines if line and not line.startswith("-DOCSTART-")]
    plain = [line for line in data if not line.startswith("#")] or data
    tabs = sum("\t" in line for line in plain) * 2 >= len(plain)
    split: Callable[[str], list[str]] = (
        (lambda s: s.split("\t")) if tabs else (lambda s: re.split(r"[ \t]+", s.lstrip()))
    )
    # The file's column count is the commonest, and of equally common ones the largest.
    columns = (
        max((count, width) for width, count in Counter(len(split(line)) for line in plain).items())[1] if plain else 0
    )

    rows: list[Row] = []
    word_lines: list[list[int]] = []
    ended = True
    for number, line in lines:
        if not line or line.startswith("-DOCSTART-"):
            ended = True
            continue
        values = split(line)
        if len(values) != columns and line.startswith("#"):
            continue
        if len(values) != columns or columns < 2 or not values[0]:
            fault = (
                f"{len(values)} columns, elsewhere {columns}"
                if values[0] and columns > 1
                else f"{line.strip()!r} alone"
            )
            raise InputError(f"{path}, line {number}: {fault}; each line needs a word first and its tag last")
        if ended:
            rows.append({"tokens": [], "ner_tags": []})
            word_lines.append([])
            ended = False
        rows[-1]["tokens"].append(values[0])
        rows[-1]["ner_tags"].append(values[-1])
        word_lines[-1].append(number)
    return Part(str(path), rows, [numbers[0] for numbers in word_lines], word_lines=word_lines)


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of ClassLabel columns, plain or in lists, from the features of `datasets` as JSON."""

    def names(feature: Any) -> list[str] | None:
        if isinstance(feature, list):
            return names(feature[0])
        if feature.get("_type") == "ClassLabel":
            return list(feature["names"])
        return names(feature["feature"]) if feature.get("_type") in ("List", "LargeList", "Sequence") else None

    return {column: found for column, feature in features.items() if (found := names(feature))}


READERS: dict[str, Callable[[Path], Part]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _txt,
    ".conll": _conll,
    ".bio": _conll,
    ".iob": _conll,
}
