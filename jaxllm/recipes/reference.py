"""The reference of preference losses: log-probabilities of answers under the initial model, cached in files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxllm import planning
from jaxllm.data.packing import make_plan
from jaxllm.data.preference import reference_cache
from jaxllm.data.preference.answers import AnswerBatches, AnswerRows, Group, Layout, Logps
from jaxllm.distributed import mesh as meshes
from jaxllm.evals.logps import answer_logps
from jaxllm.recipes.start import Start
from jaxllm.recipes.weights import load_params
from jaxllm.train.forward import Runner

_COMPUTING = ("remat", "unroll", "backend")
"""Fields of a configuration that do not change the output; those that end in dropout do not either."""


def weights_key(begin: Start, seed: int) -> str:
    """A hash of everything that the outputs of the initial model depend on.

    That is the model's configuration and the contents of the checkpoint's files, or the seed where it is initialised.
    """
    config = dataclasses.asdict(begin.config)
    outputs = {name: x for name, x in config.items() if name not in _COMPUTING and not name.endswith("dropout")}
    digest = hashlib.sha256(
        json.dumps([importlib.metadata.version("jaxllm"), outputs], sort_keys=True, default=str).encode()
    )
    if begin.source is None:
        digest.update(f"seed {seed} jax {jax.__version__}".encode())
    else:
        for path in sorted(begin.source.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_start(begin: Start, mesh: Mesh, seed: int) -> Runner:
    """The initial model with its parameters on the mesh."""
    return Runner(begin.model.graphdef, load_params(begin.model, mesh, seed), mesh)


def unknown(groups: Sequence[Group]) -> list[Logps]:
    """Zeros in the shapes of the log-probabilities of these groups' answers."""
    return [[np.zeros(answer.reach, np.float32) for answer in group.answers] for group in groups]


@dataclasses.dataclass
class Reference:
    """Computes log-probabilities of answers under the initial model, or reads those that an earlier run cached."""

    begin: Start
    mesh: Mesh
    seed: int
    layout: Layout
    batch_size: int
    say: Callable[[str], None]
    root: Path | None = None
    _runner: Runner | None = None
    _weights: str = ""

    def logps(self, groups: Sequence[Group], what: str) -> list[Logps]:
        """The log-probabilities per token, in nats, of all answers of these groups; `what` names them in messages.

        Mismatched answers are cached in another file, so that losses with and without them share the rest.
        """
        found: list[Logps] = [[] for _ in groups]
        for wanted, name in ((lambda side: side != 0, what), (lambda side: side == 0, f"{what}, mismatched")):
            part = [
                dataclasses.replace(group, answers=tuple(a for a in group.answers if wanted(a.side)))
                for group in groups
            ]
            if all(group.answers for group in part):
                for all_of_it, more in zip(found, self._kept(part, name), strict=True):
                    all_of_it += more
        return found

    def _kept(self, groups: Sequence[Group], what: str) -> list[Logps]:
        if planning.current() is not None:  # shapes are all that matters
            return unknown(groups)
        self._weights = self._weights or weights_key(self.begin, self.seed)
        path = reference_cache.path_of(reference_cache.key_of(groups, self._weights), self.root)
        found = reference_cache.read(path, groups)
        if _everywhere(found is not None):
            assert found is not None
            self.say(f"{what}: from {path}")
            return found
        began = time.monotonic()
        self._runner = self._runner or load_start(self.begin, self.mesh, self.seed)
        rows = AnswerRows(groups, self.layout)
        multiple = meshes.row_multiple(self.mesh)
        plan = make_plan(rows.lengths, batch_size=min(self.batch_size, len(groups)), multiple=multiple)
        found = answer_logps(self._runner, AnswerBatches(rows, plan))
        if jax.process_index() == 0:
            reference_cache.write(path, found)
        self.say(f"{what}: computed in {time.monotonic() - began:.0f} s, kept in {path}")
        return found


def _everywhere(here: bool) -> bool:
    """Whether it is true in every process: either all compute or none."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))
