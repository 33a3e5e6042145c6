"""Loading a data set of tagged words as rows by split: files of columns, told by their contents, and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxllm.data import files, sources
from jaxllm.data.files import READERS, Part, Row
from jaxllm.data.labelled.columns import listed
from jaxllm.data.remote import File, path_of
from jaxllm.data.sources import Rows
from jaxllm.data.splits import split_of
from jaxllm.data.tagging.choice import Choice
from jaxllm.data.tagging.spans import sentences_of
from jaxllm.types import InputError

TABLES = (".jsonl", ".json", ".parquet", ".arrow", ".csv")
"""Suffixes of files whose rows have named columns."""


def load_tagged(dataset: str | File, word_column: str = "", tag_column: str = "", split: str = "") -> dict[str, Rows]:
    """The splits of a data set, by the names train, dev and test.

    dataset, split: what `sources.load` takes. A .txt, a .tsv and a file with any other suffix or none are files of
    columns where their contents look so. word_column, tag_column: of files of columns, as in `columns.read_columns`;
    of rows, the names of the columns; empty to find them. The columns found in the first file are taken in the others
    too. Raises InputError that names file and line.
    """
    path = path_of(dataset)
    if sources.is_saved(path):
        return _named(sources.load(dataset, split), word_column, tag_column)
    chosen = sources.find_files(path, None, split) if split else {}
    listed = itertools.chain(*chosen.values()) if split else _candidates(path)
    columns = {file for file in listed if files.suffix_of(file) not in TABLES and files.is_column_file(file)}
    splits = chosen or sources.find_files(path, {*READERS, *map(files.suffix_of, columns)})
    if not splits:
        return _named(sources.load(dataset, split), word_column, tag_column)
    found: dict[str, Rows] = {}
    like: Choice | None = None
    for split, paths in splits.items():
        parts = []
        for file in paths:
            if file in columns:
                parts.append(files.column_file(file, word_column, tag_column, like))
                like = like or parts[-1].columns
            elif files.suffix_of(file) == ".txt":
                fault = "a .txt without columns of words and tags"
                raise InputError(f"{file}: {fault}; write a word and its tag on each line, or name it .conll")
            else:
                parts.append(_rename(files.read(file), word_column, tag_column))
        found[split] = Rows(parts)
    return found


def _candidates(path: File) -> list[File]:
    """The files that may hold columns: `path`, or those in the folder `path`, or of the pattern, that name a split."""
    if path.is_file():
        return [path]
    if path.is_dir():
        within: Iterable[File] = itertools.chain(path.glob("*"), path.glob("*/*"), path.glob("*/*/*"))
        names = ((file, file.name, file.parent.name) for file in within if not file.name.startswith("."))
        listed = [file for file, *names in names if any(map(split_of, names))]
    else:
        listed = list(itertools.chain(*sources.find_files(path, READERS).values()))
    return [file for file in listed if files.suffix_of(file) not in TABLES and file.is_file()]


def _named(splits: Mapping[str, Rows], word_column: str, tag_column: str) -> dict[str, Rows]:
    return {
        name: Rows([_rename(part, word_column, tag_column) for part in rows.parts]) for name, rows in splits.items()
    }


def _rename(part: Part, word_column: str, tag_column: str) -> Part:
    """The part with `tokens` and `ner_tags` in place of the columns that are named, and lists in place of texts."""
    text = Path(part.name).suffix in (".csv", ".tsv")
    if len(part.rows) and "paragraphs" in part.rows[0]:
        return Part(part.name, sentences_of(part.rows, part.name))
    wanted = {new: old for new, old in (("tokens", word_column), ("ner_tags", tag_column)) if old}
    if not wanted and not text:
        return part
    rows: list[Row] = []
    for i, row in enumerate(part.rows):
        for new, old in wanted.items():
            if old not in row:
                flag = "--word-column" if new == "tokens" else "--tag-column"
                raise InputError(
                    f"{flag} {old}: {part.where(i, None)} has the columns {', '.join(row)}; give one of them"
                )
        others = {name: x for name, x in row.items() if name not in wanted.values()}
        row = {**others, **{new: row[old] for new, old in wanted.items()}}
        rows.append({name: _listed(x) for name, x in row.items()} if text else row)
    renamed = {new: part.class_names[old] for new, old in wanted.items() if old in part.class_names}
    return Part(part.name, rows, part.numbers, {**part.class_names, **renamed})


def _listed(value: Any) -> Any:
    """The list that a text of a .csv writes: as JSON, or words with white space between."""
    found = listed(value) if isinstance(value, str) else value
    return found.split() if isinstance(found, str) else found
