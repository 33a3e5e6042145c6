"""What the scripts that train on answers share: their flags, and the steps from a data set to examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxllm.data.builtin import questions
from jaxllm.data.chat import rows as instructions
from jaxllm.data.chat.examples import CUTS, examples
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.packing import Example
from jaxllm.data.report import Report
from jaxllm.recipes.chat_start import ChatFlags
from jaxllm.recipes.help import DATA
from jaxllm.recipes.rows import check, hold_out, open_rows
from jaxllm.recipes.start import Start
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class DialogueFlags(ChatFlags):
    """Flags of the scripts that train on answers."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file of dialogues (jaxllm/data/chat/rows.py lists the columns), or `builtin` for questions on
    Python's standard library."""
    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on, taken at even distances; 0 for none."""
    cut: str = "answer"
    """What is done with a row over --max-length: answer (the end of its answer is cut), prompt (first the beginning of
    its prompt is), or drop (it is left out)."""
    train_on: str = "answers"
    """Which tokens are learned: answers, or all (prompts too). All of a plain text is learned."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The dialogues of one split, where in the data set each stands, and how many were cut or left out."""

    dialogues: list[Dialogue]
    places: list[str]
    report: Report = dataclasses.field(default_factory=Report)

    def __len__(self) -> int:
        return len(self.dialogues)

    def every(self, period: int) -> tuple[Split, Split]:
        """All but every `period`-th row, and every `period`-th row."""

        def part(held_out: bool) -> Split:
            which = [i for i in range(len(self.dialogues)) if (i % period == period - 1) == held_out]
            return Split([self.dialogues[i] for i in which], [self.places[i] for i in which])

        return part(False), part(True)


def read_dialogues(config: DialogueFlags) -> dict[str, Split]:
    """The splits train and, where there are any, dev and test. Raises InputError that names what is wrong by row."""
    check(config.holdout, config.cut, CUTS)
    if config.train_on not in ("answers", "all"):
        raise InputError(f"--train-on {config.train_on}: give answers or all")
    splits = {}
    for name, rows in open_rows(config, questions.sft).items():
        splits[name] = Split(instructions.dialogues(rows, where=rows.where), [rows.where(i) for i in range(len(rows))])
    return hold_out(splits, config.holdout)


def texts_of(split: Split) -> Iterator[str]:
    """Every text of a split, for training a tokenizer."""
    for dialogue in split.dialogues:
        yield from (message["content"] for message in dialogue.messages)
        yield from (text for text in (dialogue.prompt, dialogue.completion) if text)


def examples_of(split: Split, config: DialogueFlags, begin: Start) -> list[Example]:
    """A split as tokens. Raises InputError where none of its rows is left."""
    return examples(
        split.dialogues, begin.tokenizer, config.max_length, where=split.places.__getitem__, report=split.report,
        cut=config.cut, prompts=config.train_on == "all",
    )  # fmt: skip


def lines_of(splits: dict[str, Split]) -> list[tuple[str, str]]:
    """What to print about the data: the number of rows of each split, and what was left out or cut."""
    counts = ", ".join(f"{split.report.kept:,} {name}" for name, split in splits.items())
    lines = [("data", f"{counts} dialogues")]
    return lines + [("", f"{name}: {line}") for name, split in splits.items() for line in split.report.lines()]
