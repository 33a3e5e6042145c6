"""Dialogues as examples to train on, cut to a length; what is cut or left out is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxllm.data.chat.encode import Encoded, encode
from jaxllm.data.chat.rows import Dialogue, each
from jaxllm.data.packing import Example
from jaxllm.data.report import Report
from jaxllm.types import InputError

CUTS = ("answer", "prompt", "drop")
"""What becomes of a row over the length: the end of its answers is cut, first the beginning of its prompt, or it is
left out."""


def example(encoded: Encoded) -> Example:
    """Shifted by one, up to the last token that is learnt."""
    stop = int(np.flatnonzero(encoded.trained)[-1]) + 1
    tokens = encoded.tokens[:stop]
    return Example(tokens[:-1], tokens[1:], encoded.trained[1:stop].astype(np.float32))


def examples(
    dialogues: Sequence[Dialogue],
    tokenizer: Any,
    max_length: int,
    *,
    where: Callable[[int], str],
    report: Report,
    cut: str = "answer",
    prompts: bool = False,
) -> list[Example]:
    """What each dialogue teaches, in `max_length` tokens at most, end token included.

    cut: one of CUTS. prompts: learn these too. Counted in the report: what is cut, and rows that are left out, with
    their places. Raises InputError that names the rows the chat template refuses or that teach nothing, and where no
    row is left.
    """
    found = []
    for i, encoded in enumerate(each(dialogues, lambda one, place: _encoded(one, tokenizer, place, prompts), where)):
        shortened = _shorten(encoded, max_length, cut)
        if isinstance(shortened, str):
            report.drop(shortened, where(i))
            continue
        kept, kinds = shortened
        for kind in kinds:
            report.shorten(kind)
        found.append(example(kept))
    if not found:
        raise InputError("no row is left to train on: " + ("; ".join(report.lines()) or "there are none"))
    report.kept = len(found)
    return found


def _encoded(dialogue: Dialogue, tokenizer: Any, where: str, prompts: bool) -> Encoded:
    tokens, trained = encode(dialogue, tokenizer, where=where)
    if not trained[1:].any():
        raise InputError(f"{where}: it has no token to learn; fill it in or remove the row")
    return Encoded(tokens, np.ones_like(trained)) if prompts else Encoded(tokens, trained)


def _shorten(encoded: Encoded, max_length: int, cut: str) -> tuple[Encoded, list[str]] | str:
    """A row within the length and what was cut of it, or why it is left out."""
    tokens, trained = encoded
    over, kinds = int(np.flatnonzero(trained)[-1]) + 1 - max_length, []
    if over <= 0:
        return encoded, []
    if cut == "drop":
        return f"over --max-length {max_length}"
    first = int(np.argmax(trained))
    if cut == "prompt" and first > 1:
        gone = min(over, first - 1)
        tokens, trained, over = tokens[gone:], trained[gone:], over - gone
        kinds.append("prompts")
    if over > 0:
        tokens, trained = tokens[:max_length], trained[:max_length]
        kinds.append("answers" if first > 1 else "texts")
    if not trained[1:].any():
        return f"the prompt fills --max-length {max_length}"
    return Encoded(tokens, trained), kinds
