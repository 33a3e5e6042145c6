"""Flags and data of the scripts that train on compared or judged answers: from a data set to groups of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxllm import planning
from jaxllm.data.builtin import questions
from jaxllm.data.chat.columns import parse_columns
from jaxllm.data.preference.answers import Group, Layout
from jaxllm.data.preference.pairs import CUTS, Comparison, comparisons, encode
from jaxllm.models.heads import trunk_of
from jaxllm.recipes import rows
from jaxllm.recipes.help import DATA
from jaxllm.recipes.rows import RowFlags, Split, check, hold_out, open_rows
from jaxllm.recipes.start import Start
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class PairFlags(RowFlags):
    """Flags of the scripts that train on pairs of answers."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file with columns chosen and rejected, or completion and label; `builtin` for questions on
    Python's standard library."""
    cut: str = "answer"
    """What is cut from a row over --max-length: answer (the end of its answers) or prompt (first the beginning of its
    prompt)."""
    pairs: str = "best"
    """Which answers with scores or ranks are compared: best (the best with the worst) or all (every two)."""
    share_prompt: bool = True
    """Compute the prompt of a pair once, for both answers; --no-share-prompt repeats it before each of them."""


def read_pairs(config: PairFlags) -> dict[str, Split[Comparison]]:
    """The splits train and, where there are any, dev and test. Raises InputError where too many rows are bad."""
    check(config.holdout, config.cut, CUTS)
    if config.pairs not in ("best", "all"):
        raise InputError(f"--pairs {config.pairs}: give best or all")
    names, splits = parse_columns(config.columns), {}
    for name, part in open_rows(config, questions.preference).items():
        found = comparisons(part, columns=names, every=config.pairs == "all", max_bad_rows=config.max_bad_rows)
        splits[name] = Split(*found)
    return hold_out(splits, config.holdout)


def texts_of(split: Split[Comparison]) -> Iterator[str]:
    """The texts of all prompts and answers, to train a tokenizer on."""
    for one in split.rows:
        for part in (one.prompt, *one.answers):
            yield from [part] if isinstance(part, str) else (message["content"] for message in part)


def groups_of(splits: Mapping[str, Split[Comparison]], config: PairFlags, begin: Start) -> dict[str, list[Group]]:
    """The groups of each split. Raises InputError where none of its rows is left."""
    return {
        name: encode(
            split.rows, begin.tokenizer, config.max_length,
            where=split.locations.__getitem__, report=split.report, cut=config.cut,
        )
        for name, split in splits.items()
    }  # fmt: skip


def layout_of(config: Any, begin: Start, *, closed: bool = False) -> tuple[Layout, list[str]]:
    """How answers lie in rows, which depends on what the model's attention can mask; and lines to print about it."""
    shape = trunk_of(begin.config)
    splash = shape.backend == "splash" or (shape.backend == "auto" and planning.platform() == "tpu")
    if config.share_prompt and splash:
        return Layout(False, closed), ["prompts are repeated before each answer: TPU's splash kernel masks no branches"]
    return Layout(config.share_prompt, closed), []


def lines_of(splits: Mapping[str, Split[Comparison]]) -> list[tuple[str, str]]:
    """Lines that describe the data: how many rows each split has, and which were left out or cut."""
    first = next(iter(splits.values())).rows[0]
    return rows.lines_of(splits, "pairs" if len(first.answers) > 1 else "judged answers")
