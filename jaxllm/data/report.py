"""The rule for rows that cannot be used: which are left out and counted, which stop the run, and how both are reported.

A row that is bad in its content (`BadRow`: an empty answer, half of an emoji, a conversation that the chat template
refuses) is left out and counted by kind, up to a share of the rows, `--max-bad-rows`. A row of the wrong structure (any
other InputError: a missing column, a value of another type) stops the run, for then the file is wrong and not the row.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

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
class Report:
    """The number of rows kept, the rows left out, and how many were cut."""

    kept: int = 0
    dropped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Places of the rows left out, by reason."""
    cut: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of cuts, by what was cut."""
    cut_rows: int = 0
    """The number of rows of which something was cut."""
    max_bad_rows: float = MAX_BAD_ROWS
    """The share of the rows that may be bad in their content; 0 stops at the first."""
    total: int = 0
    """The number of rows, with those left out."""
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    """The message of the first bad row of each kind; the kinds are reasons in `dropped`."""
    unread: dict[str, None] = dataclasses.field(default_factory=dict)
    """The columns that nothing reads."""
    shapes: Counter[str] = dataclasses.field(default_factory=Counter)
    """The number of rows that were read as each shape."""
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    """The number of rows of which the chat template does not render a column (`tools`)."""
    repeated: int = 0
    """The number of rows of text whose answers all begin with their prompt, which is learnt from twice then."""

    def drop(self, reason: str, where: str) -> None:
        """Counts a row that is left out."""
        self.dropped.setdefault(reason, []).append(where)

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
        first = next(iter(self.bad.values()))
        kinds = "; ".join(f"{len(self.dropped[kind]):,} {kind}: {_listed(self.dropped[kind])}" for kind in self.bad)
        over = f"{count:,} of {self.total:,} rows are bad, above --max-bad-rows {self.max_bad_rows:g}"
        raise InputError(f"{first} ({over}: {kinds})")

    def lines(self) -> list[str]:
        """One line for each reason, one for all cuts, and one for each column that the chat template does not show."""
        found = [f"{len(places):,} left out, {reason}: {_listed(places)}" for reason, places in self.dropped.items()]
        if self.cut:
            found.append("cut to --max-length: " + ", ".join(f"{count:,} {kind}" for kind, count in self.cut.items()))
        if self.cut_rows > self.kept / 2:
            share = f"{self.cut_rows:,} of {self.kept:,} rows are cut"
            found.append(f"warning: {share}; give a larger --max-length, or choose what is lost by --cut")
        if self.repeated:
            fault = "the answers begin with the prompt, which stands before them once more"
            found.append(f"warning: in {self.repeated:,} rows {fault}; leave it out of the answers")
        found += [f"the chat template does not show {name} ({n:,} rows)" for name, n in self.ignored.items()]
        return found

    def without_faults(self, rows: Iterable[Any], fault: Callable[[Any], BadRow | None]) -> list[Any]:
        """The rows, each with its location in `where`, that have no fault; the others are counted as bad.

        Raises InputError where too many are bad.
        """
        found = []
        for row in rows:
            if (bad := fault(row)) is None:
                found.append(row)
            else:
                self.drop_bad(bad, row.where)
        self.check_bad()
        self.kept = len(found)
        return found

    def select(self, rows: Iterable[tuple[Any, Sequence[str]] | str], where: Callable[[int], str]) -> list[Any]:
        """The rows that are kept, of rows given as the row and the kinds of cuts made to it, or why it is left out.

        Raises InputError where no row is left.
        """
        found = []
        for i, row in enumerate(rows):
            if isinstance(row, str):
                self.drop(row, where(i))
                continue
            found.append(row[0])
            self.cut_rows += bool(row[1])
            self.cut.update(row[1])
        self.kept = len(found)
        self.require_rows()
        return found

    def require_rows(self) -> None:
        """Raises InputError where no row is left."""
        if not self.kept:
            raise InputError("no row is left to train on: " + ("; ".join(self.lines()) or "there are none"))


def convert_each(
    rows: Iterable[T], fn: Callable[[T, str], Any], where: Callable[[int], str], report: Report
) -> tuple[list[Any], list[str]]:
    """`fn(row, where(i))` of every row that is good, and the locations of these rows.

    Rows for which `fn` raises BadRow are left out and counted in the report. Raises InputError for all rows of the
    wrong structure (the first in full, the others by location and number), where too many are bad or none is good, and
    at once for an error that does not begin with the row's location, which is not about the row.
    """
    found: list[Any] = []
    locations: list[str] = []
    wrong: list[tuple[str, str]] = []
    seen = 0
    for i, row in enumerate(rows):
        location, seen = where(i), seen + 1
        try:
            found.append(fn(row, location))
            locations.append(location)
        except BadRow as error:
            report.drop_bad(error, location)
        except InputError as error:
            if not str(error).startswith(location):
                raise
            wrong.append((location, str(error)))
    if wrong:
        (_, message), *others = wrong
        listed = ", ".join(_short([location for location, _ in others[:8]]))
        more = f" ... and {len(others)} more: {listed}{', ...' if len(others) > 8 else ''}"
        raise InputError(message + (more if others else ""))
    report.total = max(report.total, seen)
    report.check_bad()
    report.kept = len(found)
    report.require_rows()
    return found, locations


def usable(rows: Iterable[tuple[T, str]], fn: Callable[[T, str], Any], report: Report) -> Iterator[Any]:
    """`fn(row, location)` of every good row, one by one, for data sets that do not fit in memory.

    rows: each with its location. The report is filled anew by each pass to the end. Raises InputError there where too
    many rows were bad, and at once for a row of the wrong structure.
    """
    now = Report(max_bad_rows=report.max_bad_rows)
    for row, location in rows:
        now.total += 1
        try:
            value = fn(row, location)
        except BadRow as error:
            now.drop_bad(error, location)
            continue
        yield value
    report.dropped, report.total, report.bad = now.dropped, now.total, now.bad
    report.check_bad()


def check_text(value: Any, where: str, name: str) -> None:
    """Raises BadRow where a text in this value, which may be nested, has a lone surrogate (half of an emoji)."""
    if isinstance(value, str):
        if value.isascii():
            return
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(value[error.start]):04x}"
            raise BadRow(
                f"{where}: a lone surrogate ({code}, half of a character) in its {name} is no text; mend the row",
                f"a lone surrogate in {name}",
            ) from None
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_text(key, where, name)
            check_text(item, where, name)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, str) or not item.isascii():
                check_text(item, where, name)


def check_argument(text: str, name: str) -> None:
    """Raises InputError for a text from the command line that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} {text!a}: not UTF-8 at character {error.start + 1}; give it in UTF-8") from None


def _listed(locations: Sequence[str]) -> str:
    """The first nine locations, and the number of the others."""
    rest = f", ... {len(locations) - 9:,} more" if len(locations) > 9 else ""
    return ", ".join([locations[0], *_short(locations[1:9])]) + rest


def _short(locations: Sequence[str]) -> list[str]:
    """ "line 9" for "train.jsonl, line 9": the locations follow one that names the file."""
    return [location.rpartition(", ")[2] for location in locations]
