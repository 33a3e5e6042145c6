"""Generating the embedded sums: two numbers of one or two digits to add, with the right answer to check."""

from __future__ import annotations

import random
from typing import Any

LARGEST = 99
HELD_OUT = 500
"""Sums in dev; the other 9,500 are in train."""


def sums() -> dict[str, list[dict[str, Any]]]:
    """Splits `train` and `dev` of rows with `prompt`, "7+58=", and `answer`, "65". No sum is in both."""
    every = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    random.Random(0).shuffle(every)
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in every]
    return {"dev": rows[:HELD_OUT], "train": rows[HELD_OUT:]}
