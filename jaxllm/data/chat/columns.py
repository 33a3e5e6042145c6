"""Renaming the columns of rows as `--columns` says, and noting which columns are read and as which shape of row."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxllm.data.report import Report
from jaxllm.types import InputError

NAMES = (
    "messages", "conversations", "conversation", "prompt", "completion", "question", "answer", "query", "instruction",
    "output", "response", "text", "input", "context", "system", "history", "tools", "documents",
    "chat_template_kwargs", "chosen", "rejected", "label", "completions", "scores", "rank", "answers", "weight",
    "margin",
)  # fmt: skip
"""The names that a column may be given by `--columns`."""


class TrackedRow(dict[str, Any]):
    """A row that notes which of its columns were read. named: the names that `--columns` gives to columns of it."""

    def __init__(self, row: Mapping[str, Any], named: Collection[str] = ()) -> None:
        super().__init__(row)
        self.read: set[str] = set()
        self.named = named

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        """The value of a column, or the default."""
        self.read.add(column)
        return super().get(column, default)


@dataclasses.dataclass
class ColumnsRead:
    """Renames the columns of rows as the flag `--columns` says, and notes which of them are read."""

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The column that stands for each name."""
    seen: dict[str, None] = dataclasses.field(default_factory=dict)
    read: set[str] = dataclasses.field(default_factory=set)
    shapes: Counter[str] = dataclasses.field(default_factory=Counter)

    def open(self, row: Mapping[str, Any], where: str) -> TrackedRow:
        """A row under the names that the shapes know. Raises InputError for a column that it lacks."""
        self.seen.update(dict.fromkeys(row))
        if lacking := [column for column in self.names.values() if column not in row]:
            raise InputError(f"{where}: --columns names {', '.join(lacking)}, and {shown_columns(row)}")
        kept = {column: x for column, x in row.items() if column not in self.names.values()}
        return TrackedRow(kept | {name: row[column] for name, column in self.names.items()}, self.names)

    def close(self, row: TrackedRow, shape: str) -> None:
        """Notes which of its columns were read, and as which shape."""
        self.read |= {self.names.get(name, name) for name in row.read}
        self.shapes[shape] += 1

    def tell(self, report: Report) -> None:
        """Adds the columns that were read in no row, and the shapes, to a report."""
        report.unread |= {column: None for column in self.seen if column not in self.read}
        report.shapes.update(self.shapes)


def parse_columns(text: str, known: Sequence[str] = NAMES) -> dict[str, str]:
    """{"prompt": "question"} from "prompt=question". Raises InputError for a text that names no columns.

    known: the names that columns may be given.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not all(side.strip() for side in part.split("=", 1)) or "=" not in part]:
        raise InputError(f"--columns {wrong[0]}: give NAME=COLUMN, several separated by commas")
    pairs = [tuple(side.strip() for side in part.split("=", 1)) for part in parts]
    if unknown := [name for name, _ in pairs if name not in known]:
        raise InputError(f"--columns {unknown[0]}=...: columns can be named {', '.join(known)}")
    return dict(pairs)  # type: ignore[arg-type]


def shown_columns(row: Mapping[str, Any]) -> str:
    """The columns of a row, each with the first 60 characters of its value."""
    if not row:
        return "its columns are none"
    values = (" ".join(str(value).split()).encode(errors="backslashreplace").decode() for value in row.values())
    short = (value if len(value) <= 60 else value[:60] + "..." for value in values)
    listed = "; ".join(f"{name} ({value})" for name, value in zip(row, short, strict=True))
    return f"its columns are {', '.join(map(str, row))}: {listed}"
