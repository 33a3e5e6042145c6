"""Making preference pairs from dialogues: each answer is chosen for its own question, and rejected for another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxllm.data.chat.rows import Dialogue


def pairs(dialogues: Sequence[Dialogue]) -> Iterator[dict[str, Any]]:
    """Rows of prompt, chosen and rejected, messages or text, for `data/preference/pairs.py`.

    The dialogues with a prompt are sorted by a hash of it, and each rejects the answer of the next, so that each answer
    is rejected once. A dialogue makes no row if the next has the same answer, or is text where it is messages.
    """
    asked = [_parted(one) for one in dialogues if one.messages or one.prompt]
    order = sorted(asked, key=lambda one: hashlib.sha256(repr(one[0]).encode()).digest())
    after = {id(one): following for one, following in zip(order, order[1:] + order[:1], strict=True)}
    for one in asked:
        (prompt, chosen), (_, rejected) = one, after[id(one)]
        if chosen != rejected and type(chosen) is type(rejected):
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _parted(dialogue: Dialogue) -> tuple[Any, Any]:
    """The prompt and the last answer."""
    if dialogue.messages:
        return [*dialogue.messages[:-1]], [dialogue.messages[-1]]
    return dialogue.prompt, dialogue.completion
