"""Flags and data of the scripts that train on dialogues: from a data set to examples of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxllm.data.builtin import questions
from jaxllm.data.chat import rows as instructions
from jaxllm.data.chat.columns import parse_columns
from jaxllm.data.chat.encode import prompt_of_text, prompt_tokens
from jaxllm.data.chat.examples import CUTS, examples
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.packing import Example
from jaxllm.data.report import Report
from jaxllm.evals.answers import Question
from jaxllm.recipes import rows
from jaxllm.recipes.help import DATA
from jaxllm.recipes.rows import RowFlags, Split, check, hold_out, open_rows
from jaxllm.recipes.start import Start
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class DialogueFlags(RowFlags):
    """Flags of the scripts that train on answers."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file of dialogues (jaxllm/data/chat/rows.py lists the columns), or `builtin` for questions on
    Python's standard library."""
    cut: str = "answer"
    """What is done with a row over --max-length: answer (the end of its answer is cut), prompt (first the beginning of
    its prompt is), or drop (it is left out)."""
    train_on: str = "answers"
    """Which tokens are learned: answers, or all (prompts too). All of a plain text is learned."""


def read_dialogues(config: DialogueFlags) -> dict[str, Split[Dialogue]]:
    """The splits train and, where there are any, dev and test. Raises InputError where too many rows are bad."""
    check(config.holdout, config.cut, CUTS)
    if config.train_on not in ("answers", "all"):
        raise InputError(f"--train-on {config.train_on}: give answers or all")
    splits, names = {}, parse_columns(config.columns)
    for name, part in open_rows(config, questions.sft).items():
        report = Report(max_bad_rows=config.max_bad_rows)
        splits[name] = Split(*instructions.dialogues(part, report=report, columns=names), report)
    return hold_out(splits, config.holdout)


def texts_of(split: Split[Dialogue]) -> Iterator[str]:
    """The texts of all messages, prompts and completions, to train a tokenizer on."""
    for dialogue in split.rows:
        yield from (message["content"] for message in dialogue.messages)
        yield from (text for text in (dialogue.prompt, dialogue.completion) if text)


def examples_of(split: Split[Dialogue], config: DialogueFlags, begin: Start) -> list[Example]:
    """The examples of a split. Raises InputError where none of its rows is left."""
    return examples(
        split.rows, begin.tokenizer, config.max_length, where=split.locations.__getitem__, report=split.report,
        cut=config.cut, prompts=config.train_on == "all",
    )  # fmt: skip


def lines_of(splits: dict[str, Split[Dialogue]]) -> list[tuple[str, str]]:
    """Lines that describe the data: how many dialogues each split has, and which were left out or cut."""
    return rows.lines_of(splits, "dialogues")


def questions_of(split: Split[Dialogue], begin: Start, count: int, room: int) -> list[Question]:
    """`count` dialogues of a split, evenly spaced; of them those that ask something and leave `room` in the context."""
    gone = {place for kind in split.report.bad for place in split.report.dropped[kind]}
    rows = [row for row, place in zip(split.rows, split.locations, strict=True) if place not in gone]
    found: list[Question] = []
    for dialogue in rows[:: max(1, len(rows) // max(1, count))][:count]:
        if dialogue.messages:
            *asked, last = dialogue.messages
            prompt = prompt_tokens(asked, begin.tokenizer, dialogue.options)
            one = Question(prompt, asked[-1]["content"], last["content"])
        else:
            prompt = prompt_of_text(dialogue.prompt, begin.tokenizer)
            one = Question(prompt, dialogue.prompt, dialogue.completion)
        if one.text and len(one.prompt) + room <= begin.config.max_positions:
            found.append(one)
    return found
