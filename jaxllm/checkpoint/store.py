"""Saves and restores checkpoints by Orbax, in the background, as three items: `params`, `opt_state` and `meta`.

Each item can be read alone. The folder may be a bucket (gs://...): no path here is taken for a local one. What was
written is hashed, and checked before it is used (`manifest.py`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from jaxllm.checkpoint import manifest, quiet
from jaxllm.distributed import messages
from jaxllm.types import InputError, Params, RunError, TrainState

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs each file, and also every error that it raises


class Checkpoints:
    """The checkpoints of one run, named by their position: the number of batches consumed.

    keep: how many of the newest stay. every: those at multiples of it stay too (0: none). write: False to read only,
    and change nothing in the folder. Of several processes, each opens the folder, and all call the same methods.
    """

    def __init__(self, folder: str | Path, keep: int = 2, every: int = 0, *, write: bool = True):
        self.folder = epath.Path(folder)
        if "://" not in str(folder):
            self.folder = self.folder.absolute()
        quiet.quieten()
        # `max_to_keep` with `best_fn`, Orbax's own option for the best one, may delete the newest.
        self._kept = [LatestN(keep), *([EveryNSteps(every)] if every else [])]
        self._policy = AnyPreservationPolicy(self._kept)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, create=write, read_only=not write, cleanup_tmp_directories=write
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "manifest")
        self._sealing: concurrent.futures.Future[None] | None = None
        self._failed = False

    def positions(self) -> list[int]:
        """All complete checkpoints."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest complete checkpoint, its files not looked at."""
        return self._manager.latest_step()

    def problem(self, position: int) -> str | None:
        """What is wrong with the files of a checkpoint, None if its manifest agrees with them, or it has none."""
        return messages.agree(manifest.check(self.folder / str(position), messages.index(), messages.count()))

    def sound(self) -> int | None:
        """The newest checkpoint that is not damaged, None if there is no checkpoint.

        Names damaged ones on stderr. Raises InputError if all are.
        """
        found, damaged = None, {}
        for position in reversed(self.positions()):
            if (problem := self.problem(position)) is None:
                found = position
                break
            damaged[position] = problem
        self._report(found, damaged)
        return found

    def newest(self, like: TrainState) -> tuple[TrainState, int, dict[str, Any]] | None:
        """State, position and meta data of the newest sound checkpoint; None if there is no checkpoint.

        One without a manifest, whose process ended too early, is sound if it can be restored. Damaged ones are named on
        stderr and renamed, so that their positions can be saved again. Raises InputError if all are damaged, or the
        newest sound one is of another model.
        """
        restored, damaged = None, {}
        for position in reversed(self.positions()):
            problem = self.problem(position)
            sealed = (self.folder / str(position) / manifest.MANIFEST).exists()
            if problem is None:
                try:
                    state, meta = self.restore(position, like)
                    restored = state, position, meta
                    break
                except InputError:
                    raise
                except Exception as error:
                    if sealed:
                        raise
                    problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            damaged[position] = problem
        self._report(restored and restored[1], damaged)
        if damaged:
            if messages.index() == 0:
                for position in damaged:
                    self._set_aside(position)
            messages.agree(None)
            self._manager.reload()
        if restored and not sealed:
            self._sealing = self._sealer.submit(self._seal, restored[1])
        return restored

    def save(self, position: int, state: TrainState, meta: Mapping[str, Any], best: int | None = None) -> None:
        """Saves the state in the background, unless the position has a checkpoint already. `best` is never deleted.

        Raises RunError if this one, or the one before it, cannot be written.
        """
        self.wait()
        self._policy.policies = [*self._kept, CustomSteps([] if best is None else [best])]
        if position in self._manager.all_steps():
            return
        opt_state = flat(state.opt_state)
        arrays = {"params": _shapes(state.params), "opt_state": _shapes(opt_state)}
        now = {**copy.deepcopy(dict(meta)), "step": int(state.step), "position": position, "arrays": arrays}
        with self._saving(position):
            saved = self._manager.save(
                position,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    opt_state=ocp.args.StandardSave(opt_state),
                    meta=ocp.args.JsonSave(now),
                ),
            )
        if not saved:
            raise RuntimeError(f"checkpoint {position} was not saved: {self.folder} has a newer one")
        self._sealing = self._sealer.submit(self._seal, position)

    def restore(self, position: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at a position, sharded as `like`, and its meta data.

        Raises InputError if it is of another model or optimizer.
        """
        opt_state, meta = flat(like.opt_state), self.meta(position)
        self._compare(position, meta, params=like.params, opt_state=opt_state)
        found = self._manager.restore(
            position,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params), opt_state=ocp.args.StandardRestore(opt_state)
            ),
        )
        leaves = [found.opt_state[name] for name in opt_state]
        step = jax.device_put(jnp.asarray(meta["step"], jnp.int32), like.step.sharding)
        return TrainState(step, found.params, jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)), meta

    def params(self, position: int, like: Mapping[str, Any] | None = None) -> Params:
        """The parameters alone, sharded as `like`. Raises InputError if they are of another model."""
        if like is not None:
            self._compare(position, self.meta(position), params=like)
        return self._manager.restore(position, args=ocp.args.Composite(params=ocp.args.StandardRestore(like))).params

    def meta(self, position: int) -> dict[str, Any]:
        """The meta data alone."""
        return self._manager.restore(position, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def wait(self) -> None:
        """Waits until the last checkpoint and its manifest are written. Raises RunError if they cannot be."""
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing.result()

    def close(self) -> None:
        """Waits, and closes the folder."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            if not self._failed:
                self._manager.close()

    def _seal(self, position: int) -> None:
        with self._saving(position):
            self._manager.wait_until_finished()
            if messages.index() == 0:
                manifest.write(self.folder / str(position))

    @contextlib.contextmanager
    def _saving(self, position: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # Orbax and TensorStore have no class of their own
            self._failed = True
            text = " ".join(str(error).split())
            why = "no space left there" if "No space left" in text or "RESOURCE_EXHAUSTED" in text else text[:300]
            for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
                with contextlib.suppress(OSError):  # some writes still go on; the next start removes it
                    path.rmtree(missing_ok=True)
            there = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
            stand = ", ".join(map(str, there)) or "none"
            raise RunError(
                f"checkpoint {position} could not be written to {self.folder}: {why}. Those that stand: {stand}; "
                "mend it and run the same command again"
            ) from error

    def _compare(self, position: int, meta: Mapping[str, Any], **wanted: Mapping[str, Any]) -> None:
        for item, like in wanted.items():
            there = meta.get("arrays", {}).get(item)
            here = _shapes(like)
            if there is None or there == here:
                continue
            differs = [f"{n} {x} there, {here[n]} here" for n, x in there.items() if n in here and here[n] != x]
            differs += [f"{n} is not there" for n in here.keys() - there.keys()]
            differs += [f"{n} is not here" for n in there.keys() - here.keys()]
            more = f" and {len(differs) - 3} more" if len(differs) > 3 else ""
            whose = "model" if item == "params" else "optimizer"
            raise InputError(
                f"checkpoint {position} of {self.folder} is of another {whose}: {'; '.join(differs[:3])}{more}: "
                "give another --out"
            )

    def _report(self, found: int | None, damaged: Mapping[int, str]) -> None:
        if not damaged:
            return
        if found is None:
            problems = "; ".join(f"{position}: {problem}" for position, problem in damaged.items())
            raise InputError(
                f"no checkpoint of {self.folder} is what was written ({problems}): restore one from a copy, or remove "
                "the folder to begin anew"
            )
        if messages.index() == 0:
            for position, problem in damaged.items():
                text = f"warning: checkpoint {position} of {self.folder} is damaged: {problem}; taking {found}"
                print(text, file=sys.stderr)

    def _set_aside(self, position: int) -> None:
        n, target = 1, self.folder / f"{position}.damaged"
        while target.exists():
            n, target = n + 1, self.folder / f"{position}.damaged-{n + 1}"
        (self.folder / str(position)).rename(target)


def reading(folder: str | Path | epath.Path) -> contextlib.closing[Checkpoints]:
    """The checkpoints of a folder, for reading only. Raises InputError if the folder does not exist."""
    if not epath.Path(folder).exists():
        raise InputError(f"{folder}: no checkpoints there")
    return contextlib.closing(Checkpoints(folder, write=False))


def newest_sound(run: str | Path) -> int:
    """The newest sound checkpoint of a run folder. Raises InputError if it has none."""
    folder = epath.Path(run) / "checkpoints"
    if folder.exists():
        with reading(folder) as checkpoints:
            if (position := checkpoints.sound()) is not None:
                return position
    raise InputError(f"{run} holds no checkpoint yet")


def newest_meta(folder: str | Path) -> dict[str, Any]:
    """The meta data of the newest checkpoint in a folder of them, as far as it can be read; empty without one."""
    try:
        with reading(folder) as checkpoints:
            position = checkpoints.latest()
            return {} if position is None else checkpoints.meta(position)
    except (OSError, ValueError):  # InputError is one
        return {}


def read_params(run: str | Path, abstract: Mapping[str, jax.ShapeDtypeStruct], position: int | None = None) -> Params:
    """The parameters of a run folder's checkpoint (the newest sound one by default), sharded as `abstract`.

    Raises InputError if the run has no checkpoint, or that one is damaged or of another model.
    """
    position = newest_sound(run) if position is None else position
    with reading(epath.Path(run) / "checkpoints") as checkpoints:
        if problem := checkpoints.problem(position):
            raise InputError(f"checkpoint {position} of {run} is damaged: {problem}")
        return checkpoints.params(position, dict(abstract))


def _shapes(tree: Mapping[str, Any]) -> dict[str, str]:
    """The dtype and shape of each array, by name."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in tree.items()}


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by path: independent of the classes that optax uses for its state."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
