"""Losses that stand out from those before them."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable

WINDOW = 64
LEAST = 16
"""Losses that must have been seen before one can stand out."""


class Spikes:
    """Says which losses lie above the last `WINDOW` by more than these lie apart, and by a tenth.

    So a noisy loss may be noisy, and one that falls steeply at first raises no alarm. `state` survives a checkpoint.
    """

    def __init__(self, state: Iterable[float] = ()):
        self._window = collections.deque(state, maxlen=WINDOW)

    @property
    def state(self) -> list[float]:
        """What has been seen, as far as it matters."""
        return list(self._window)

    def add(self, loss: float) -> float | None:
        """Takes the loss of a step into account: the largest one before it if it is a spike, else None."""
        if not math.isfinite(loss):  # that is another alarm's
            return None
        seen = list(self._window)
        self._window.append(loss)
        if len(seen) < LEAST:
            return None
        highest = max(seen)
        return highest if loss > highest + (highest - min(seen)) + 0.1 * abs(highest) else None
