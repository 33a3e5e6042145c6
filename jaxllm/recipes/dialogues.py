"""What the scripts that learn answers share: their flags, and the road from a data set to examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxllm.data.builtin import questions
from jaxllm.data.chat import rows as instructions
from jaxllm.data.chat.encode import prompt_of_text, prompt_tokens
from jaxllm.data.chat.examples import CUTS, examples
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.packing import Example
from jaxllm.data.report import Report
from jaxllm.evals.answers import Question
from jaxllm.recipes.chat_start import ChatFlags
from jaxllm.recipes.rows import check, hold_out, open_rows
from jaxllm.recipes.start import Start
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class DialogueFlags(ChatFlags):
    """Flags of the scripts that learn answers."""

    dataset: str = "builtin"
    """Hub id, folder or file (data/chat/rows.py has the shapes); `builtin` for questions on Python's library."""
    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on: every so-many-th row; 0 for none."""
    cut: str = "answer"
    """Of a row over --max-length: answer (its end is cut), prompt (first its beginning), drop (it is left out)."""
    train_on: str = "answers"
    """answers, or all: prompts too. A text has no prompt."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The dialogues of one split, where each stands, and what became of those that did not fit."""

    dialogues: list[Dialogue]
    places: list[str]
    report: Report = dataclasses.field(default_factory=Report)

    def __len__(self) -> int:
        return len(self.dialogues)

    def every(self, period: int) -> tuple[Split, Split]:
        """All but every `period`-th row, and these."""

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
    """All that is said in it, for a tokenizer to learn from."""
    for dialogue in split.dialogues:
        yield from (message["content"] for message in dialogue.messages)
        yield from (text for text in (dialogue.prompt, dialogue.completion) if text)


def examples_of(split: Split, config: DialogueFlags, begin: Start) -> list[Example]:
    """A split as tokens. Raises InputError where none of its rows is left."""
    return examples(
        split.dialogues, begin.tokenizer, config.max_length, where=split.places.__getitem__, report=split.report,
        cut=config.cut, prompts=config.train_on == "all",
    )  # fmt: skip


def questions_of(split: Split, begin: Start, count: int, room: int) -> list[Question]:
    """`count` dialogues of a split, evenly spaced; of them those that ask something and leave `room` in the context."""
    found: list[Question] = []
    for dialogue in split.dialogues[:: max(1, len(split.dialogues) // max(1, count))][:count]:
        if dialogue.messages:
            *asked, last = dialogue.messages
            one = Question(prompt_tokens(asked, begin.tokenizer), asked[-1]["content"], last["content"])
        else:
            prompt = prompt_of_text(dialogue.prompt, begin.tokenizer)
            one = Question(prompt, dialogue.prompt, dialogue.completion)
        if one.text and len(one.prompt) + room <= begin.config.max_positions:
            found.append(one)
    return found


def lines_of(splits: dict[str, Split]) -> list[tuple[str, str]]:
    """What to print of the data: how many rows of each split, and what was left out or cut."""
    counts = ", ".join(f"{split.report.kept:,} {name}" for name, split in splits.items())
    lines = [("data", f"{counts} dialogues")]
    return lines + [("", f"{name}: {line}") for name, split in splits.items() for line in split.report.lines()]
