"""Detects spikes: losses far above those of the steps before."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable

WINDOW = 64
LEAST = 16
"""Losses that are needed before one can be a spike."""


class Spikes:
    """Detects losses above the largest of the last `WINDOW` by more than their range, and by more than a tenth.

    So neither noise nor a steep fall at the start counts as a spike. `state` survives a checkpoint.
    """

    def __init__(self, state: Iterable[float] = ()):
        self._window = collections.deque(state, maxlen=WINDOW)

    @property
    def state(self) -> list[float]:
        """The last losses."""
        return list(self._window)

    def add(self, loss: float) -> float | None:
        """Adds the loss of a step. If it is a spike, returns the largest one before it, else None."""
        if not math.isfinite(loss):  # NonfiniteReporter reports it
            return None
        seen = list(self._window)
        self._window.append(loss)
        if len(seen) < LEAST:
            return None
        highest = max(seen)
        return highest if loss > highest + (highest - min(seen)) + 0.1 * abs(highest) else None
