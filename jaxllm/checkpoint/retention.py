"""Which checkpoints stay when a newer one is there.

Orbax's own `max_to_keep` with `best_fn` keeps the best, and may delete the newest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext, PreservationPolicy


@dataclasses.dataclass
class Keep(PreservationPolicy):
    """The newest `last`, those at multiples of `every`, and the best, whichever it is."""

    last: int
    every: int
    best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        newest = len(checkpoints) - self.last
        return [
            i >= newest or info.step == self.best or (self.every > 0 and info.step % self.every == 0)
            for i, info in enumerate(checkpoints)
        ]
