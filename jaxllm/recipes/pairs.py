"""What the scripts that train on pairs of answers share: their flags, and the steps from a data set to groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import jax

from jaxllm.data.builtin import questions
from jaxllm.data.preference.answers import Group, Layout
from jaxllm.data.preference.pairs import CUTS, Comparison, Report, comparisons, encode
from jaxllm.recipes.chat_start import ChatFlags
from jaxllm.recipes.help import DATA
from jaxllm.recipes.rows import check, hold_out, open_rows
from jaxllm.recipes.start import Start, trunk_of


@dataclasses.dataclass(frozen=True)
class PairFlags(ChatFlags):
    """Flags of the scripts that train on pairs of answers."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file with columns chosen and rejected, or completion and label; `builtin` for questions on
    Python's standard library."""
    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on, taken at even distances; 0 for none."""
    cut: str = "answer"
    """What is cut from a row over --max-length: answer (the end of its answers) or prompt (first the beginning of its
    prompt)."""
    share_prompt: bool = True
    """Compute the prompt of a pair once, for both answers; --no-share-prompt repeats it before each of them."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The comparisons of one split, where in the data set each stands, and how many rows were cut or left out."""

    found: list[Comparison]
    places: list[str]
    report: Report

    def __len__(self) -> int:
        return len(self.found)

    def every(self, period: int) -> tuple[Split, Split]:
        """All but every `period`-th row, and every `period`-th row."""

        def part(held_out: bool) -> Split:
            which = [i for i in range(len(self.found)) if (i % period == period - 1) == held_out]
            report = Report(len(which)) if held_out else dataclasses.replace(self.report, kept=len(which))
            return Split([self.found[i] for i in which], [self.places[i] for i in which], report)

        return part(False), part(True)


def read_pairs(config: PairFlags) -> dict[str, Split]:
    """The splits train and, where there are any, dev and test. Raises InputError that names what is wrong by row."""
    check(config.holdout, config.cut, CUTS)
    rows = open_rows(config, questions.preference)
    return hold_out({name: Split(*comparisons(part)) for name, part in rows.items()}, config.holdout)


def texts_of(split: Split) -> Iterator[str]:
    """Every text of a split, for training a tokenizer."""
    for one in split.found:
        for part in (one.prompt, *one.answers):
            yield from [part] if isinstance(part, str) else (message["content"] for message in part)


def groups_of(splits: Mapping[str, Split], config: PairFlags, begin: Start) -> dict[str, list[Group]]:
    """Each split as tokens. Raises InputError where none of its rows is left."""
    return {
        name: encode(
            split.found, begin.tokenizer, config.max_length,
            where=split.places.__getitem__, report=split.report, cut=config.cut,
        )
        for name, split in splits.items()
    }  # fmt: skip


def layout_of(config: PairFlags, begin: Start, *, closed: bool = False) -> tuple[Layout, list[str]]:
    """How answers lie in rows, which depends on what the model's attention can mask; and lines to print about it."""
    shape = trunk_of(begin.config)
    splash = shape.backend == "splash" or (shape.backend == "auto" and jax.default_backend() == "tpu")
    if config.share_prompt and splash:
        return Layout(False, closed), ["prompts are repeated before each answer: TPU's splash kernel masks no branches"]
    return Layout(config.share_prompt, closed), []


def lines_of(splits: Mapping[str, Split]) -> list[tuple[str, str]]:
    """What to print about the data: the number of rows of each split, and what was left out or cut."""
    first = next(iter(splits.values())).found[0]
    kind = "pairs" if len(first.answers) > 1 else "judged answers"
    counts = ", ".join(f"{split.report.kept:,} {name}" for name, split in splits.items())
    lines = [("data", f"{counts} {kind}")]
    return lines + [("", f"{name}: {line}") for name, split in splits.items() for line in split.report.lines()]


def dropped_of(splits: Mapping[str, Split]) -> dict[str, dict[str, list[str]]]:
    """Where the rows stand that were left out, by split and reason: for summary.json."""
    return {name: split.report.dropped for name, split in splits.items() if split.report.dropped}
