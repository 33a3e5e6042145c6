"""The rule for tagged rows that cannot be used: which are left out and counted, and which stop the run.

A row that is bad in its content (`BadRow`: a sentence without words, a tag that is null) is left out and counted by
kind, up to a share of the rows, `--max-bad-rows`. A row of the wrong structure (any other InputError) stops the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jaxllm.data import report
from jaxllm.types import InputError

T = TypeVar("T")

MAX_BAD_ROWS = 0.05
"""The share of the rows of a data set that may be bad, where none is given."""


class BadRow(InputError):
    """A row bad in its content. The message begins with the row's location; rows are counted by `kind`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass
class Report(report.Report):
    """The number of rows kept, and the rows left out, of which a share may be bad in their content."""

    max_bad_rows: float = MAX_BAD_ROWS
    """The share of the rows that may be bad in their content; 0 stops at the first."""
    total: int = 0
    """The number of rows, with those left out."""
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    """The message of the first bad row of each kind; the kinds are reasons in `dropped`."""

    def drop_bad(self, error: BadRow, where: str) -> None:
        """Counts a row that is bad in its content. Raises the error where none may be."""
        if not self.max_bad_rows:
            raise InputError(f"{error} (--max-bad-rows 0)") from None
        self.bad.setdefault(error.kind, str(error))
        self.drop(error.kind, where)

    def check_bad(self) -> None:
        """Raises InputError that names kinds and counts where more of the rows are bad than may be."""
        count = sum(len(self.dropped[kind]) for kind in self.bad)
        if count <= self.max_bad_rows * self.total:
            return
        kinds = ", ".join(f"{len(self.dropped[kind]):,} {kind}" for kind in self.bad)
        over = f"{count:,} of {self.total:,} rows are bad, above --max-bad-rows {self.max_bad_rows:g}"
        raise InputError(f"{next(iter(self.bad.values()))} ({over}: {kinds})")


def convert_each(
    rows: Iterable[T], fn: Callable[[T, str], Any], where: Callable[[int], str], report: Report
) -> tuple[list[Any], list[str]]:
    """`fn(row, where(i))` of every row that is good, and the locations of these rows.

    Rows for which `fn` raises BadRow are left out and counted in the report. Raises InputError for a row of the wrong
    structure, and where too many are bad.
    """
    found: list[Any] = []
    locations: list[str] = []
    for i, row in enumerate(rows):
        report.total += 1
        try:
            found.append(fn(row, where(i)))
            locations.append(where(i))
        except BadRow as error:
            report.drop_bad(error, where(i))
    report.check_bad()
    report.kept = len(found)
    return found, locations
