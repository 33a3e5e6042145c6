"""Generating the embedded corpus of classified texts: what customers write to a shop, with what each text wants.

Goods and names, and some sentences of every class, are found in one split alone, so that dev and test have
what train has not. Deterministic: goods and names are split by hash.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.builtin import tables
from jaxllm.data.builtin.ner import SLOT, choose, split_of

SIZES: Mapping[str, int] = {"train": 2400, "dev": 400, "test": 400}
"""The number of texts in each split."""

DEMO: tuple[str, ...] = (
    "Hello, the drill I bought last week has stopped working, and I want my money back.",
    "Could you tell me whether the Zolara X90 comes in green?",
    "Please send four of the small lamps to my office in Enschede.",
    "What a lovely shop, your staff could not have been kinder!",
    "I will be abroad on Tuesday, so please bring the parcel on Friday instead.",
)
"""Texts that follow no sentence of the corpus, to try a trained model on."""

_TEXTS = tables.sections("requests.txt")

SENTENCES: dict[str, list[str]] = _TEXTS["sentences"]
"""What a text of each class says. The last six are of dev (three) and test (three) alone: one that train has the words
of, and two that need more."""

HELD_OUT = 3

BEFORE, AFTER, QUOTES = (_TEXTS["around"][name] for name in ("before", "after", "quotes"))
"""Sentences of no class, which any text may have around it; what may quote a sentence of another class."""

QUOTED = 0.3
"""The probability that a text begins with a quotation of another class, which does not count."""

_SLOTS: dict[str, Sequence[str]] = {
    "good": tables.WORDS["good"], "number": tables.WORDS["number"], "kin": tables.WORDS["kin"],
    "job": tables.WORDS["job"], "weekday": tables.PARTS["weekday"], "month": tables.PARTS["month"],
    "order": ("second", "third", "fourth"),
}  # fmt: skip


def requests(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Splits `train`, `dev` and `test` of rows {"text": ..., "label": a name of SENTENCES}.

    Another seed divides goods and names differently. The same seed gives the same rows on any machine.
    """
    return {split: _rows(split, size, seed) for split, size in SIZES.items()}


def documents() -> dict[str, dict[str, str]]:
    """Splits `train` and `dev` of the texts by name ("requests/12"), for masked language models: their grammar is small
    enough to be learned in minutes."""
    rows = requests()
    return {split: {f"requests/{i}": row["text"] for i, row in enumerate(rows[split])} for split in ("train", "dev")}


def _rows(split: str, size: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(f"{seed}/{split}")
    divided = {
        "item": tables.words(_TEXTS["goods"]["items"]),
        "town": tables.NAMES["town"],
        "given": tables.NAMES["first"],
        "surname": tables.NAMES["last"],
    }
    own = {name: [x for x in words if split_of(x, seed) == split] for name, words in divided.items()}
    slots = {**_SLOTS, **own, "other": own["item"]}
    rows: dict[str, str] = {}
    while len(rows) < size:
        label = rng.choice(tuple(SENTENCES))
        core = rng.choice(_sentences(label, split))
        parts = [rng.choice(BEFORE)] * (rng.random() < 0.4) + [core] + [rng.choice(AFTER)] * (rng.random() < 0.4)
        if rng.random() < QUOTED:
            other = rng.choice([name for name in SENTENCES if name != label])
            parts.insert(0, rng.choice(QUOTES).replace("{quoted}", rng.choice(_sentences(other, "train"))))
        rows.setdefault(_fill(" ".join(parts), slots, rng), label)
    return [{"text": text, "label": label} for text, label in rows.items()]


def _sentences(label: str, split: str) -> Sequence[str]:
    """The sentences of a class that a split has."""
    parts = {
        "train": slice(None, -2 * HELD_OUT),
        "dev": slice(-2 * HELD_OUT, -HELD_OUT),
        "test": slice(-HELD_OUT, None),
    }
    return SENTENCES[label][parts[split]]


def _fill(text: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    def draw(match: re.Match[str]) -> str:
        return str(rng.randint(1000, 99_999)) if match[1] == "digits" else rng.choice(slots[match[1]])

    return SLOT.sub(draw, choose(text, rng))
