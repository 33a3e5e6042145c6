"""Flags and data of the script that trains on prompts alone: from a data set to tokens, each with its whole row."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from jaxllm.data.chat.columns import ColumnsRead, parse_columns
from jaxllm.data.chat.encode import prompt_of_text, prompt_tokens
from jaxllm.data.chat.messages import Message
from jaxllm.data.chat.rows import options_of, prompt_of
from jaxllm.data.report import BadRow, Report, convert_each
from jaxllm.data.sources import Row
from jaxllm.recipes.rows import Embedded, RowFlags, Split, check, hold_out, open_rows
from jaxllm.recipes.start import Start
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt, as text or messages, and the row of the data set that it is of, which rewards read."""

    prompt: str | list[Message]
    row: Row
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is asked: the prompt's text, or the last message's."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    def encode(self, begin: Start) -> list[int]:
        """Its tokens, up to where the completion begins."""
        if isinstance(self.prompt, str):
            return prompt_of_text(self.prompt, begin.tokenizer)
        return prompt_tokens(self.prompt, begin.tokenizer, self.options)


def read_prompts(
    config: RowFlags, embedded: Embedded, read_beside: Sequence[Collection[str] | None] = ()
) -> dict[str, Split[Prompt]]:
    """The splits train and, where there are any, dev and test. Raises InputError where too many rows are bad.

    read_beside: the columns that each reward reads, None for one that may read any; others are named as not read.
    """
    check(config.holdout)
    columns, splits = ColumnsRead(parse_columns(config.columns)), {}

    def read(row: Row, where: str) -> Prompt:
        opened = columns.open(row, where)
        prompt = prompt_of(opened, where)
        if not prompt or (not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"):
            what = "is empty" if not prompt else "ends with the assistant's turn"
            raise BadRow(f"{where}: its prompt {what}; mend the row", f"prompt {what}")
        found = Prompt(prompt, dict(opened), options_of(opened, where))
        for beside in read_beside:
            opened.read |= {*(opened if beside is None else beside)}
        columns.close(opened, "prompt")
        return found

    for name, part in open_rows(config, embedded).items():
        report = Report(max_bad_rows=config.max_bad_rows)
        splits[name] = Split(*convert_each(part, read, part.where, report), report)
        columns.tell(report)
    return hold_out(splits, config.holdout)


def encode_prompts(split: Split[Prompt], begin: Start, longest: int, why: str) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts of at most `longest` tokens, and their tokens; others are left out, counted in the split's report.

    why: where the limit comes from. Raises InputError where none is left.
    """
    kept: list[Prompt] = []
    tokens: list[list[int]] = []
    for one, where in zip(split.rows, split.locations, strict=True):
        found = one.encode(begin)
        if len(found) > longest:
            split.report.drop(f"a prompt of over {longest} tokens, {why}", where)
        else:
            kept.append(one)
            tokens.append(found)
    split.report.kept = len(kept)
    if not kept:
        raise InputError(f"no prompt is left: each has over {longest} tokens, {why}: raise --max-length")
    return kept, tokens
