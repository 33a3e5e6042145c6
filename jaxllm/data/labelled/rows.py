"""Reading rows as texts with their labels: class names, numbers, or any number of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from jaxllm.data.labelled.columns import Columns, is_multi_hot, listed, number
from jaxllm.data.report import BadRow, Report, check_text, convert_each
from jaxllm.data.sources import Row, Rows
from jaxllm.types import InputError

Label = str | float | tuple[str, ...]
"""The name of a class, a number, or the names of all labels that apply."""

NONE = "without a label"
ON, OFF = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, or a pair of texts, with its label (None where it has none) and its location in the data."""

    text: str
    pair: str | None
    label: Label | None
    where: str


@dataclasses.dataclass(frozen=True)
class Reader:
    """How the labels of a data set are read. names: of the classes that its label column numbers; empty for none."""

    columns: Columns
    problem: str
    names: tuple[str, ...] = ()
    multi_hot: bool = False

    @classmethod
    def of(cls, rows: Rows, columns: Columns, problem: str) -> Reader:
        """For a data set with this training split."""
        if len(columns.labels) != 1:
            return cls(columns, problem, columns.labels)
        names = tuple(rows.class_names.get(columns.labels[0], ()))
        values = [x for x in map(_as_list, (row.get(columns.labels[0]) for row in rows)) if isinstance(x, list)]
        return cls(columns, problem, names, problem == "multi" and bool(values) and is_multi_hot(values, names))

    def read(self, rows: Rows, report: Report) -> list[Text]:
        """The texts of rows, without those that are bad in their content, which the report counts.

        Raises InputError for a row of the wrong structure, and where too many are bad.
        """
        read = {self.columns.text, self.columns.pair, *self.columns.labels}
        report.unread |= dict.fromkeys(name for name in (rows[0] if len(rows) else {}) if name not in read)

        def one(row: Row, where: str) -> Text:
            text, label = self.text(row, where), self.label(row, where)
            if label is None:
                raise BadRow(f"{where}: no label in {', '.join(self.columns.labels)}; give the row one", NONE)
            return dataclasses.replace(text, label=label)

        return convert_each(rows, one, rows.where, report)[0]

    def text(self, row: Row, where: str) -> Text:
        """The text of a row, or its two, without the label. Raises BadRow, and InputError for what is no text."""
        text = _text(row, self.columns.text, where)
        pair = _text(row, self.columns.pair, where, other=self.columns.text) if self.columns.pair else None
        return Text(text, pair, None, where)

    def label(self, row: Row, where: str) -> Label | None:
        """The label of a row; None where it has none. Raises BadRow."""
        if len(self.columns.labels) > 1:
            marks = {name: str(row.get(name)).lower() for name in self.columns.labels}
            if wrong := next((name for name, mark in marks.items() if mark not in (*ON, *OFF)), None):
                raise BadRow(
                    f"{where}: {wrong} is {row.get(wrong)!r}, wanted 0 or 1", "with a label that is not 0 or 1"
                )
            return tuple(name for name, mark in marks.items() if mark in ON)
        column = self.columns.labels[0] if self.columns.labels else ""
        value = row.get(column)
        if value is None or value == "":
            return None
        if self.problem == "regression":
            if (found := number(value)) is None:
                raise BadRow(
                    f"{where}: {column} {value!r} is no number; mend the row", "with a label that is no number"
                )
            return found
        if self.problem == "multi":
            return self._several(_as_list(value), column, where)
        if isinstance(value, list):
            if len(value) != 1:
                raise BadRow(f"{where}: {len(value)} labels in {column}, wanted one", "with another number of labels")
            (value,) = value
        return self._name(value, column, where)

    def _several(self, value: Any, column: str, where: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            value = [part.strip() for part in value.replace("|", ",").split(",")] if isinstance(value, str) else [value]
        if self.multi_hot:
            names = self.names or tuple(map(str, range(len(value))))
            if len(value) != len(names) or not all(x in (0, 1) for x in value):
                raise BadRow(
                    f"{where}: {column} is {value!r}, wanted {len(names)} of 0 and 1", "with labels not 0 or 1"
                )
            return tuple(name for name, x in zip(names, value, strict=True) if x == 1)
        found = [self._name(x, column, where) for x in value]
        if None in found:
            raise BadRow(f"{where}: a label in {column} is null; mend the row", NONE)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def _name(self, value: Any, column: str, where: str) -> str | None:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and self.names:
            if value == -1:  # what data sets write for no label
                return None
            if not 0 <= value < len(self.names):
                fault = f"{column} is {value}, and the classes are 0 to {len(self.names) - 1}"
                raise BadRow(f"{where}: {fault}; mend the row", "with a number of no class")
            return self.names[value]
        if not isinstance(value, str | int | float):
            raise InputError(f"{where}: {column} holds a {type(value).__name__}; give a name, a number or a list")
        check_text(value, where, column)
        return str(value) or None


def _as_list(value: Any) -> Any:
    return listed(value) if isinstance(value, str) else value


def _text(row: Row, column: str, where: str, other: str = "") -> str:
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        if other:
            raise BadRow(f"{where}: a pair with one text, {other}; give it {column} too", "of a pair with one text")
        raise BadRow(f"{where}: no text in {column}; leave the row out", "without a text")
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} holds a {type(value).__name__}, wanted a text; name another by --columns")
    check_text(value, where, column)
    return value


def names_in(texts: Sequence[Text]) -> list[str]:
    """The names of classes that texts have, those that are whole numbers in the order of numbers."""
    found = {name for text in texts for name in _names(text.label)}
    return sorted(
        found, key=lambda name: (not name.lstrip("-").isdigit(), int(name) if name.lstrip("-").isdigit() else 0, name)
    )


def _names(label: Label | None) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,) if isinstance(label, str) else ()


def without_unseen(texts: Sequence[Text], known: Collection[str], report: Report) -> list[Text]:
    """The texts of a split whose labels are all known, from training; others are counted in the report as bad."""

    def fault(text: Text) -> BadRow | None:
        unseen = next((name for name in _names(text.label) if name not in known), None)
        message = f"{text.where}: label {unseen!r} is unseen in training; add examples or mend the row"
        return None if unseen is None else BadRow(message, "with a label unseen in training")

    return report.without_faults(texts, fault)
