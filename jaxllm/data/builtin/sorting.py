"""Generating the embedded task of online training: letters to put in order, with the right answer to check."""

from __future__ import annotations

import random
from typing import Any

LETTERS = "abcdefghij"
SHORTEST, LONGEST = 3, 5
"""Letters of a word, at least and at most. No letter is in it twice: a model that SFT has taught a little writes such
a letter once or without end, is never right, and so never learns from a reward."""
COUNT, HELD_OUT = 10_000, 500
"""Words in all; those in dev. The others are in train."""


def sorting() -> dict[str, list[dict[str, Any]]]:
    """Splits `train` and `dev` of rows with `prompt`, "sort heb=", and `answer`, "beh". No word is in both."""
    rng, words = random.Random(0), set[str]()
    while len(words) < COUNT:
        words.add("".join(rng.sample(LETTERS, rng.randint(SHORTEST, LONGEST))))
    every = sorted(words)
    rng.shuffle(every)
    rows = [{"prompt": f"sort {word}=", "answer": "".join(sorted(word))} for word in every]
    return {"dev": rows[:HELD_OUT], "train": rows[HELD_OUT:]}
