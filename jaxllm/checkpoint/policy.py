"""When a run is saved, and what is saved beside its arrays so that it continues exactly where it was."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxllm.checkpoint.store import Checkpoints, flat
from jaxllm.distributed import replicas
from jaxllm.types import TrainState


@dataclasses.dataclass
class Saver:
    """Saves at multiples of `every` and `keep_every`, and `minutes` after the last time (0 for never, each of them)."""

    checkpoints: Checkpoints
    mesh: Mesh
    every: int
    minutes: float
    constants: Mapping[str, Any]
    """What is the same in every checkpoint: the experiment, its data, the seed."""
    compare: bool = True
    """Check first that devices agree on what they hold in common."""
    keep_every: int = 0
    _saved: float = dataclasses.field(default_factory=time.monotonic)

    def due(self, position: int, logged: bool) -> bool:
        """Whether to save at this position. Minutes count at positions that are logged, to spare communication.

        All processes call this, and all get the same answer.
        """
        late = False
        if self.minutes and logged:
            late = time.monotonic() - self._saved > 60 * self.minutes
            if jax.process_count() > 1:
                late = bool(multihost_utils.broadcast_one_to_all(np.asarray(late)))
        return late or any(n and position % n == 0 for n in (self.every, self.keep_every))

    def save(self, position: int, state: TrainState, meta: Mapping[str, Any], best: int | None) -> None:
        """Saves in the background. meta: what differs from checkpoint to checkpoint. Raises RunError."""
        if self.compare and self.mesh.size > 1:
            replicas.check(flat((state.params, state.opt_state)), self.mesh, position)
        key = jax.random.fold_in(jax.random.key(self.constants["seed"]), int(state.step))
        random = np.asarray(jax.random.key_data(key)).tolist()
        self.checkpoints.save(position, state, {**self.constants, **meta, "random": random}, best)
        self._saved = time.monotonic()
