"""Reading one data file as rows. Every error names the file, and the line or row in it.

| suffix           | a row                                                                                   |
|------------------|-----------------------------------------------------------------------------------------|
| .jsonl           | the object on a line                                                                    |
| .json            | an object of a list, or of the list under "data"; a file of JSON lines is read as such  |
| .parquet .arrow  | a row, with the class names that the `datasets` library keeps in the schema             |
| .csv .tsv        | a record, keyed by the header; every value is a string                                  |
| .txt             | the whole file, as {"text": ...}: one document                                          |
| .conll .bio .iob | a sentence, as {"tokens": [...], "ner_tags": [...]}; jaxllm/data/tagging/choice.py says  |
| .iob2 .conllu .. | which columns hold the words and the tags; a file of several documents has "document"   |

Text formats may be compressed (.gz, .zst, .bz2: `train.jsonl.gz`). They are parsed here, because the readers of
`datasets` force all rows into one schema and do not say in which line a fault is. A file may be on another machine
(jaxllm/data/remote.py): it is downloaded when it is opened.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO

from jaxllm.data.remote import File
from jaxllm.data.tagging.choice import Choice
from jaxllm.data.tagging.columns import looks_like_columns, read_columns
from jaxllm.types import InputError

Row = dict[str, Any]

COMPRESSED = (".gz", ".zst", ".bz2")


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one file, or of one split of a hub data set, and the line that each begins on (if it has lines)."""

    name: str
    rows: Sequence[Row]
    numbers: Sequence[int] = ()
    class_names: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    word_lines: Sequence[Sequence[int]] = ()  # of a file of columns: the line of every word
    columns: Choice | None = None  # of a file of columns: which hold words and tags
    faults: Mapping[int, str] = dataclasses.field(default_factory=dict)  # rows that could not be read, with the reason

    def where(self, row: int, word: int | None) -> str:
        """Names a row, or a word of it, for messages."""
        if word is not None and self.word_lines:
            return f"{self.name}, line {self.word_lines[row][word]}"
        location = f"{self.name}, " + (f"line {self.numbers[row]}" if self.numbers else f"row {row + 1}")
        return location if word is None else f"{location}, word {word + 1}"


def suffix_of(path: File) -> str:
    """The suffix that tells the format: ".jsonl" for train.jsonl.gz."""
    return PurePath(path.name).with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def read(path: File) -> Part:
    """The rows of a file. Raises InputError for a suffix not in READERS, and for faults in the file."""
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise InputError(f"{path}: cannot read {suffix or 'a file without suffix'}; give {' '.join(READERS)}")
    part = READERS[suffix](path)
    if not len(part.rows):
        raise InputError(f"{path}: holds no rows; check the file")
    return part


def check_content(path: File) -> None:
    """Raises InputError where Git LFS left a pointer in place of a file; OSError for a file that cannot be opened."""
    with open(os.fspath(path), "rb") as file:
        if file.read(40) == b"version https://git-lfs.github.com/spec/":
            raise InputError(f"{path}: Git LFS left a pointer in place of the file; get it by git lfs pull")


@contextlib.contextmanager
def open_bytes(path: File) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed. Raises InputError, also inside the `with`, for what cannot be read."""
    import pyarrow as pa  # fsspec would need another package for .zst, and hands on the compressed bytes without it

    try:
        check_content(path)
        with pa.input_stream(os.fspath(path), compression="detect" if path.suffix in COMPRESSED else None) as stream:
            yield io.BufferedReader(stream)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); check the file") from error


def parse_json(text: str | bytes, path: File, line: int = 1) -> Any:
    """The value of a JSON text that begins on this line of a file. Raises InputError that names the line."""
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {line}: not UTF-8; convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        location = f"{path}, line {line + error.lineno - 1}"
        raise InputError(f"{location}: not JSON at column {error.colno} ({error.msg}); mend the line") from error
    except RecursionError:
        raise InputError(f"{path}, line {line}: JSON nested too deeply to read; mend the line") from None
    except ValueError:  # of a number: Python reads at most 4300 digits
        raise InputError(f"{path}, line {line}: a number has too many digits to read; mend the line") from None


def json_rows(lines: Iterable[str | bytes], path: File) -> Iterator[tuple[int, Row]]:
    """The number and the object of each line that is not blank. Raises InputError for a line that is no object."""
    for number, line in enumerate(lines, start=1):
        if line := line.rstrip():
            try:
                row = _object(parse_json(line, path, number), f"{path}, line {number}")
            except InputError as error:
                if number == 1 and line[:1] in ("[", b"[") and "nested" not in str(error):
                    kind = "a JSON list, where each line is an object of its own"
                    raise InputError(f"{path}, line 1: {kind}; name the file .json") from None
                raise
            yield number, row


def _object(value: Any, where: str) -> Row:
    if isinstance(value, list) and [type(x) for x in value] == [str, dict]:  # spaCy's pairs of a text and its entities
        return {**value[1], "text": value[0]}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {type(value).__name__} where an object {{...}} is needed; mend it")
    return value


def _text(path: File) -> str:
    with open_bytes(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: byte {error.start} is not UTF-8; convert the file to UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; check the path")
    return text


def _jsonl(path: File, text: str | None = None) -> Part:
    # Not splitlines, which also splits at characters that may stand inside a text, such as U+2028.
    found = list(json_rows((_text(path) if text is None else text).split("\n"), path))
    return Part(str(path), [row for _, row in found], [number for number, _ in found])


def _json(path: File) -> Part:
    text = _text(path)
    try:
        found = parse_json(text, path)
    except InputError as error:
        if "(Extra data)" in str(error) and text.lstrip().startswith("{"):
            return _jsonl(path, text)
        raise
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise InputError(f'{path}: neither a list of objects nor {{"data": [...]}}; wrap the rows in one of them')
    return Part(str(path), [_object(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)])


@contextlib.contextmanager
def table_errors(path: File) -> Iterator[None]:
    """Turns errors of opening a parquet or arrow file into InputError."""
    import pyarrow as pa

    try:
        check_content(path)
        yield
    except (pa.ArrowException, OSError) as error:
        kind = f"{'an' if path.suffix == '.arrow' else 'a'} {path.suffix[1:]} file"
        raise InputError(f"{path}: not {kind} ({str(error).splitlines()[0]}); write it again") from error


def _parquet(path: File) -> Part:
    import pyarrow.parquet as pq

    with table_errors(path):
        return _columns(path, pq.ParquetFile(os.fspath(path)).read())


def _arrow(path: File) -> Part:
    import pyarrow as pa

    with table_errors(path), pa.memory_map(os.fspath(path)) as source:
        try:
            return _columns(path, pa.ipc.open_file(source).read_all())
        except pa.ArrowInvalid:  # a stream, which is what `datasets` writes
            source.seek(0)
            return _columns(path, pa.ipc.open_stream(source).read_all())


def _columns(path: File, table: Any) -> Part:
    import datasets

    _check_names(table.column_names, str(path))
    return table_part(str(path), datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=path.name))


def _check_names(columns: Sequence[str], where: str) -> None:
    """Raises InputError for a column name that stands there twice: a row would hold the last of their values."""
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise InputError(f"{where}: several columns are named {twice[0]!r}; give each another name")


def table_part(name: str, table: Any) -> Part:
    """The rows of a `datasets.Dataset`, made into dictionaries when they are asked for, and its class names."""
    from datasets import ClassLabel

    names = {}
    for column, feature in table.features.items():
        while hasattr(feature, "feature"):  # a list
            feature = feature.feature
        if isinstance(feature, ClassLabel):
            names[column] = feature.names
    return Part(name, table, class_names=names)


def _csv(path: File, delimiter: str = ",") -> Part:
    csv.field_size_limit(2**31 - 1)  # documents are longer than the module's 128 KiB
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True, delimiter=delimiter)
    rows: list[Row] = []
    numbers: list[int] = []
    header: list[str] = []
    number = 1
    try:
        for values in reader:
            if not header:
                header = values
                _check_names(header, f"{path}, line {number}")
            elif values and len(values) != len(header):
                fault = f"{len(values)} values where the header names {len(header)}"
                remedy = f"quote values with {'commas' if delimiter == ',' else 'tabs'}"
                raise InputError(f"{path}, line {number}: {fault}; {remedy}")
            elif values:
                rows.append(dict(zip(header, values, strict=True)))
                numbers.append(number)
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: {error}; check the quotes") from error
    return Part(str(path), rows, numbers)


def column_file(path: File, word_column: str = "", tag_column: str = "", like: Choice | None = None) -> Part:
    """The sentences of a file of columns. The arguments are those of `columns.read_columns`."""
    found = read_columns(str(path), _text(path), word_column, tag_column, like)
    if not found.words:
        raise InputError(f"{path}: holds no rows; check the file")
    rows: list[Row] = [{"tokens": words, "ner_tags": tags} for words, tags in zip(found.words, found.tags, strict=True)]
    if len({*found.documents}) > 1:
        rows = [{**row, "document": number} for row, number in zip(rows, found.documents, strict=True)]
    numbers = [lines[0] for lines in found.lines]
    return Part(str(path), rows, numbers, word_lines=found.lines, columns=found.choice, faults=found.faults)


def is_column_file(path: File) -> bool:
    """Whether the suffix of a file, or else the beginning of it, tells that it has columns of words and tags."""
    if suffix_of(path) in COLUMN_SUFFIXES:
        return True
    with open_bytes(path) as file:
        return looks_like_columns(file.read(1 << 16).decode("utf-8", errors="replace").removeprefix("\ufeff"))


COLUMN_SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bilou", ".bmes", ".conllu", ".conllup")

READERS: dict[str, Callable[[File], Part]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _csv,
    ".tsv": functools.partial(_csv, delimiter="\t"),
    ".txt": lambda path: Part(str(path), [{"text": _text(path)}], [1]),
    **dict.fromkeys(COLUMN_SUFFIXES, column_file),
}
