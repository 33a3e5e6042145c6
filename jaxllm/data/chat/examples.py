"""Converting dialogues to training examples of a maximum length, counting the rows that are cut or left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxllm.data.chat.encode import Encoded, encoding, ignored_options
from jaxllm.data.chat.render import turn_end
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.chat.together import Steps, together
from jaxllm.data.packing import Example
from jaxllm.data.report import BadRow, Report, convert_each

CUTS = ("answer", "prompt", "drop")
"""How a row over the length is treated: the end of its answers is cut, or first the beginning of its prompt, or the row
is left out."""


def example(encoded: Encoded) -> Example:
    """Tokens and targets shifted by one, up to the last token that is learnt."""
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
    """Examples of at most `max_length` tokens, end token included.

    cut: one of CUTS. prompts: learn these too. The report counts cuts, and names rows that are left out, among them
    those that the chat template refuses or that have nothing to learn. Raises InputError where these are too many, and
    where no row is left.
    """
    if any(one.messages for one in dialogues):
        turn_end(tokenizer)  # a template at fault is not the fault of a row

    def convert(one: Dialogue, location: str) -> Steps[Encoded]:
        tokens, trained = yield from encoding(one, tokenizer, where=location)
        if not trained[1:].any():
            fault = f"{location}: it has no token to learn; fill it in or remove the row"
            raise BadRow(fault, "no token to learn")
        report.ignored.update(ignored_options(one, tokenizer))
        return Encoded(tokens, np.ones_like(trained) if prompts else trained)

    steps = (convert(one, where(i)) for i, one in enumerate(dialogues))
    encoded, locations = convert_each(together(steps, tokenizer), lambda result, _: result(), where, report)
    return report.select((_shorten(one, max_length, cut) for one in encoded), locations.__getitem__)


def _shorten(encoded: Encoded, max_length: int, cut: str) -> tuple[Example, list[str]] | str:
    """An example within the length and what was cut from it, or why the row is left out."""
    tokens, trained = encoded
    over, kinds = int(np.flatnonzero(trained)[-1]) + 1 - max_length, []
    if over <= 0:
        return example(encoded), []
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
    return example(Encoded(tokens, trained)), kinds
