"""Checkpoints by Orbax: asynchronous, in three items (`params`, `opt_state`, `meta`), so each can be read alone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext, PreservationPolicy

from jaxllm.types import InputError, Params, TrainState

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each file it touches


@dataclasses.dataclass
class _KeepLastAndBest(PreservationPolicy):
    """The newest `keep`, and the best, whichever it is."""

    keep: int
    best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        newest = len(checkpoints) - self.keep
        return [i >= newest or info.step == self.best for i, info in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run, named by their position: the number of batches consumed."""

    def __init__(self, folder: Path, keep: int = 2):
        self._policy = _KeepLastAndBest(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._policy)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    def positions(self) -> list[int]:
        """All complete checkpoints."""
        return sorted(self._manager.all_steps())

    def save(self, position: int, state: TrainState, meta: Mapping[str, Any], best: int | None = None) -> None:
        """Saves in the background; a checkpoint of this position that is there stays. `best` is never deleted."""
        self._policy.best = best
        if position in self._manager.all_steps():
            return
        saved = self._manager.save(
            position,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(_flat(state.opt_state)),
                meta=ocp.args.JsonSave({**meta, "step": int(state.step), "position": position}),
            ),
        )
        if not saved:
            raise RuntimeError(f"checkpoint {position} was not saved: {self._manager.directory} has a newer one")

    def restore(self, position: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at a position, onto the shapes and shardings of `like`, and its meta data."""
        flat = _flat(like.opt_state)
        found = self._manager.restore(
            position,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                opt_state=ocp.args.StandardRestore(flat),
                meta=ocp.args.JsonRestore(),
            ),
        )
        opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), [found.opt_state[name] for name in flat])
        step = jax.device_put(jnp.asarray(found.meta["step"], jnp.int32), like.step.sharding)
        return TrainState(step, found.params, opt_state), found.meta

    def params(self, position: int, like: Mapping[str, Any]) -> Params:
        """The parameters alone."""
        return self._manager.restore(position, args=ocp.args.Composite(params=ocp.args.StandardRestore(like))).params

    def meta(self, position: int) -> dict[str, Any]:
        """The meta data alone."""
        return self._manager.restore(position, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def wait(self) -> None:
        """Until what is being saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._manager.close()


def read_params(run: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], position: int | None = None) -> Params:
    """The parameters of a run folder's checkpoint (the newest by default), placed as `abstract` says.

    Raises InputError if the run has no checkpoint.
    """
    checkpoints = Checkpoints(run / "checkpoints")
    position = checkpoints.latest() if position is None else position
    if position is None:
        raise InputError(f"{run} holds no checkpoint yet")
    params = checkpoints.params(position, dict(abstract))
    checkpoints.close()
    return params


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by path: independent of the classes that optax uses for its state."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
