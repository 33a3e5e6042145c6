"""What became of rows that could not be used as they are."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Report:
    """Rows that were left out, and those that were cut: nothing is lost without a word."""

    kept: int = 0
    dropped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Places of the rows by the reason."""
    cut: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many by kind."""

    def drop(self, reason: str, where: str) -> None:
        """Notes a row that is left out."""
        self.dropped.setdefault(reason, []).append(where)

    def shorten(self, kind: str) -> None:
        """Notes that a thing of this kind was cut."""
        self.cut[kind] = self.cut.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """One line for each reason and for all cuts."""
        found = []
        for reason, places in self.dropped.items():
            # "train.jsonl, line 4" beside "train.jsonl, line 9" is "line 9".
            others = [place.rpartition(", ")[2] for place in places[1:9]]
            rest = f", ... {len(places) - 9} more" if len(places) > 9 else ""
            found.append(f"{len(places):,} left out, {reason}: {', '.join([places[0], *others])}{rest}")
        if self.cut:
            found.append("cut to --max-length: " + ", ".join(f"{count:,} {kind}" for kind, count in self.cut.items()))
        return found
