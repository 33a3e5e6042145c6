"""Evaluations during training: when they are due, how they run, and where their numbers go."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxllm.distributed import messages
from jaxllm.run import preemption, watchdog
from jaxllm.run.best import Best
from jaxllm.run.clock import Clock
from jaxllm.run.metrics import Writers, read_jsonl
from jaxllm.train.forward import Runner
from jaxllm.types import Numbers, Params

Eval = Callable[[Runner], Numbers]
"""An evaluation: a function of the model, with its batches inside, that returns numbers by name.

It may name these numbers in an attribute `numbers`, so that `--best` of another is refused before training.
"""


@dataclasses.dataclass
class Evaluations:
    """The evaluations of a run, due every `every` steps (0: never) and at the end. They decide what `best` is."""

    evals: Mapping[str, Eval]
    every: int
    runner: Runner
    best: Best
    writers: Writers
    clock: Clock

    def due(self, step: int, last: bool) -> bool:
        """Whether to evaluate after this step."""
        return bool(self.evals) and (last or (bool(self.every) and step % self.every == 0))

    def run(self, step: int, params: Params) -> None:
        """Runs all of them, and writes each number as evaluation/number. Raises Terminated or Interrupted."""

        def between() -> None:
            watchdog.step(step)
            preemption.check()

        model = dataclasses.replace(self.runner, params=params, between=between)
        numbers: dict[str, float] = {}
        with self.clock.paused(), self.writers.state("evaluating"):
            for name, evaluation in self.evals.items():
                between()
                numbers |= {f"{name}/{key}": x for key, x in evaluation(model).items()}
            self.writers.write(step, numbers)
        self.best.add(step, numbers)

    def recall(self, log: Path, step: int, kept: list[int]) -> bool:
        """Restores the best step from metrics.jsonl up to a step; whether that step was evaluated.

        kept: the steps that have a checkpoint. Not every process may have the file.
        """
        names = tuple(f"{name}/" for name in self.evals)
        lines = [line for line in read_jsonl(log, step) if any(key.startswith(names) for key in line)]
        found: list[dict[str, Any]] = json.loads(messages.broadcast(json.dumps(lines)))
        self.best.recall(found, kept)
        return any(line["step"] == step for line in found)
