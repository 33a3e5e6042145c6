"""Reports on the rows of a data set that are refused, left out or cut, each named by its location in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jaxllm.types import InputError

T = TypeVar("T")


@dataclasses.dataclass
class Report:
    """The number of rows kept, the rows left out, and how many were cut."""

    kept: int = 0
    dropped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Places of the rows left out, by reason."""
    cut: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of cuts, by what was cut."""

    def drop(self, reason: str, where: str) -> None:
        """Counts a row that is left out."""
        self.dropped.setdefault(reason, []).append(where)

    def shorten(self, kind: str) -> None:
        """Counts a cut of this kind."""
        self.cut[kind] = self.cut.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """One line for each reason, and one for all cuts."""
        found = []
        for reason, locations in self.dropped.items():
            rest = f", ... {len(locations) - 9} more" if len(locations) > 9 else ""
            listed = ", ".join([locations[0], *_short(locations[1:9])])
            found.append(f"{len(locations):,} left out, {reason}: {listed}{rest}")
        if self.cut:
            found.append("cut to --max-length: " + ", ".join(f"{count:,} {kind}" for kind, count in self.cut.items()))
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
            for kind in row[1]:
                self.shorten(kind)
        if not found:
            raise InputError("no row is left to train on: " + ("; ".join(self.lines()) or "there are none"))
        self.kept = len(found)
        return found


def convert_each(rows: Iterable[T], fn: Callable[[T, str], Any], where: Callable[[int], str]) -> list[Any]:
    """`fn(row, where(i))` of every row.

    Raises one InputError for all rows that `fn` refuses: the first in full, the others by location and number.
    """
    found: list[Any] = []
    wrong: list[tuple[str, str]] = []
    for i, row in enumerate(rows):
        try:
            found.append(fn(row, where(i)))
        except InputError as error:
            wrong.append((where(i), str(error)))
    if wrong:
        (_, message), *others = wrong
        listed = ", ".join(_short([location for location, _ in others[:8]]))
        more = f" ... and {len(others)} more: {listed}{', ...' if len(others) > 8 else ''}"
        raise InputError(message + (more if others else ""))
    return found


def _short(locations: Sequence[str]) -> list[str]:
    """ "line 9" for "train.jsonl, line 9": the locations follow one that names the file."""
    return [location.rpartition(", ")[2] for location in locations]
