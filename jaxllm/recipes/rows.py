"""Reading the rows of `--dataset` and `--eval-dataset`, and holding out rows where there is no dev split."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from jaxllm.data import files, sources
from jaxllm.data.kept import corpus
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.data.splits import choose
from jaxllm.recipes.chat_start import ChatFlags
from jaxllm.recipes.flags import Common
from jaxllm.recipes.help import DATA
from jaxllm.types import InputError

Embedded = Callable[[], Mapping[str, Sequence[dict[str, Any]]]]
"""The corpus that `--dataset builtin` means: rows by split."""


def open_rows(
    config: Common, embedded: Embedded, load: Callable[[str, str], dict[str, Rows]] = sources.load
) -> dict[str, Rows]:
    """The splits: train, and what the data has of dev and test, or `--eval-dataset` in their place.

    load: reads a data set, given its name and --split. Raises InputError for what cannot be read, and without a train
    split.
    """
    if config.dataset == "builtin":
        parts = {name: files.Part(f"builtin {name}", part) for name, part in corpus(embedded).items()}
        chosen = choose(parts, config.split, "builtin") if config.split else {name: [x] for name, x in parts.items()}
        rows = {name: Rows(found) for name, found in chosen.items()}
    else:
        rows = load(config.dataset, config.split)
    if "train" not in rows:
        raise InputError(
            f"--dataset {config.dataset}: no train split; name a file train.jsonl (or .json ...), or give --split"
        )
    if config.eval_dataset:
        found = load(config.eval_dataset, "")
        held_out = {"dev": found["train"]} if len(found) == 1 and "train" in found else found
        rows = {**held_out, "train": rows["train"]}
    return rows


@dataclasses.dataclass(frozen=True)
class RowFlags(ChatFlags):
    """Flags of the scripts that train on rows with prompts and answers."""

    TOPIC = DATA

    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on, taken at even distances; 0 for none."""
    columns: str = ""
    """Names for columns that are not recognised, as in prompt=question,completion=text; by default none."""


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Split(Generic[T]):
    """The dialogues or comparisons of one split, the location of each in the data, and which are left out or cut."""

    rows: list[T]
    locations: list[str]
    report: Report = dataclasses.field(default_factory=Report)

    def __len__(self) -> int:
        return len(self.rows)

    def every(self, period: int) -> tuple[Split[T], Split[T]]:
        """All but every `period`-th row, and every `period`-th row. The pairs of one row stay together."""
        number_of = {place: i for i, place in enumerate(dict.fromkeys(map(_row, self.locations)))}
        numbers = [number_of[_row(place)] for place in self.locations]

        def part(held_out: bool) -> Split[T]:
            which = [i for i in range(len(self)) if (numbers[i] % period == period - 1) == held_out]
            gone = len(self) - len(which)
            report = dataclasses.replace(self.report, kept=len(which), total=self.report.total - gone)
            if held_out:
                report = Report(len(which), max_bad_rows=self.report.max_bad_rows)
            return Split([self.rows[i] for i in which], [self.locations[i] for i in which], report)

        return part(False), part(True)


def check(holdout: float, cut: str = "", cuts: Sequence[str] = ("",)) -> None:
    """Raises InputError for a share outside [0, 1), and for a way to cut that is not among `cuts`."""
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout {holdout}: give a share from 0 to below 1")
    if cut not in cuts:
        raise InputError(f"--cut {cut}: give one of {', '.join(cuts)}")


def held_out_line(splits: Mapping[str, Split[Any]], share: float, kind: str) -> tuple[str, str]:
    """A line on what stands for a dev split that the data set does not have. splits: as `hold_out` gives them."""
    if "dev" in splits:
        why = f"{share:g} of train is held out as dev (--holdout)"
    elif not share:
        why = "nothing is held out (--holdout 0), so there is no dev score"
    else:
        few = f"train has too few {kind} ({len(splits['train'])}) to hold out {share:g}"
        why = f"{few}; give --eval-dataset for a score"
    return "", f"no dev split: {why}"


def hold_out(splits: Mapping[str, Split[T]], share: float) -> dict[str, Split[T]]:
    """The splits, with this share of train as dev where there is no dev split and train has enough rows."""
    period = max(2, round(1 / share)) if share else 0
    if "dev" in splits or not 0 < period <= len(set(map(_row, splits["train"].locations))):
        return dict(splits)
    train, dev = splits["train"].every(period)
    return {**splits, "train": train, "dev": dev}


def lines_of(splits: Mapping[str, Split[Any]], kind: str) -> list[tuple[str, str]]:
    """Lines that describe the data: how many rows of this kind each split has, and which were left out or cut."""
    counts = ", ".join(f"{split.report.kept:,} {name}" for name, split in splits.items())
    lines = [("data", f"{counts} {kind}")]
    lines.append(("", "; ".join(f"{name}: {_files(split.locations)}" for name, split in splits.items())))
    return lines + report_lines(splits)


def report_lines(splits: Mapping[str, Split[Any]]) -> list[tuple[str, str]]:
    """Lines that say which rows of each split were left out or cut, and which columns nothing reads."""
    lines = [("", f"{name}: {line}") for name, split in splits.items() for line in split.report.lines()]
    unread = _unread(splits)
    return lines + ([("", f"columns not read: {', '.join(unread)}")] if unread else [])


def _row(location: str) -> str:
    """The location of the row that a pair is of: "train.jsonl, line 9" for "train.jsonl, line 9, pair 2"."""
    return re.sub(r", pair \d+$", "", location)


def _files(locations: Sequence[str]) -> str:
    """The files that the rows at these locations come from: "train-0.jsonl, train-1.jsonl and 6 more"."""
    names = [*dict.fromkeys(_row(location).rpartition(", ")[0].rpartition("/")[2] for location in locations)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def summary_of(splits: Mapping[str, Split[Any]]) -> dict[str, Any]:
    """For summary.json: by split the number of rows used, the locations of those left out by reason, and the number of
    cuts; and the names of columns not read."""
    reports = {name: split.report for name, split in splits.items()}
    return {
        "rows": {name: report.kept for name, report in reports.items()},
        "dropped": {name: report.dropped for name, report in reports.items() if report.dropped},
        "cut": {name: report.cut for name, report in reports.items() if report.cut},
        "columns_not_read": _unread(splits),
    }


def _unread(splits: Mapping[str, Split[Any]]) -> list[str]:
    return list(dict.fromkeys(column for split in splits.values() for column in split.report.unread))


def shape_lines(splits: Mapping[str, Split[Any]]) -> list[tuple[str, str]]:
    """A line that says by which columns rows were recognised, for the terminal."""
    shapes: dict[str, int] = {}
    for split in splits.values():
        for name, count in split.report.shapes.items():
            shapes[name] = shapes.get(name, 0) + count
    said = ", ".join(f"{name} ({count:,} rows)" for name, count in shapes.items())
    return [("shape", f"recognised by the columns {said}")]


def key_of(texts: Iterable[str]) -> str:
    """A hash of the texts and of where each ends."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode(errors="surrogatepass"))
    return digest.hexdigest()
