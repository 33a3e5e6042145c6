"""Finds which terms of the loss, and which rows of the batch, made a step's loss or gradient not finite."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxllm.data.loader import Steps
from jaxllm.distributed.mesh import put_batch, replicated
from jaxllm.params import GraphDef
from jaxllm.run.metrics import Jsonl
from jaxllm.train.step import evaluate
from jaxllm.types import LossFn, Metrics, Params, RunError, terms, value

SKIPPED = "skipped.jsonl"
"""In a run's folder: one line per step that was not finite."""

_EXAMINED = 8
"""Steps whose rows are examined; where more steps fail, single rows are not the cause."""
_SHOWN = 8
"""Rows that a message names."""


class NotFinite(RunError, FloatingPointError):
    """The loss or its gradient is not finite; the last good state is saved."""


class NonfiniteReporter:
    """Describes each step that was not finite in one line, and records it in skipped.jsonl.

    Rows are examined one at a time, without dropout, at the parameters that follow the last step.
    """

    def __init__(
        self, graphdef: GraphDef, loss: LossFn, frozen: Collection[str], plan: Steps, mesh: Mesh, local: Sequence[int],
        folder: Path, position: int,
    ):  # fmt: skip
        """local: the rows of a batch that this process has. position: batches that the run has consumed already."""
        self._plan, self._mesh, self._local, self._left = plan, mesh, local, _EXAMINED
        self._path, self._position = folder / SKIPPED, position
        self._log = Jsonl(self._path, position) if self._path.exists() and not jax.process_index() else None
        self._find = jax.jit(_finder(graphdef, loss, frozen), out_shardings=replicated(mesh))

    def __call__(self, step: int, batch: Any, metrics: Metrics, params: Params) -> str:
        """The line for a step. batch: the numpy rows of this process. metrics: of the step, fetched from the device."""
        wrong = not_finite(metrics)
        note: dict[str, Any] = {"terms": wrong}
        line = f"step {step} is not finite: {', '.join(wrong) or 'its update'}"
        if self._left:
            self._left -= 1
            at = put_batch(batch, self._mesh, self._plan.rows, self._local)
            finite_B, bad = jax.device_get(self._find(params, at))
            planned = self._plan.step(step - 1)
            rows = np.flatnonzero(~finite_B).tolist()
            examples = [planned[row] if row < len(planned) else [] for row in rows]
            broken = sorted(name for name, x in bad.items() if x)
            note |= {"rows": rows, "examples": examples, "parameters": broken}
            line += "; " + _describe(rows, examples, len(finite_B), broken)
        if not jax.process_index():
            self._log = self._log or Jsonl(self._path, self._position)
            self._log.write(step, note)
        return line

    def close(self) -> None:
        """Closes skipped.jsonl."""
        if self._log is not None:
            self._log.close()


def not_finite(metrics: Metrics) -> list[str]:
    """The metrics of a step that are not finite, each with its value; of one that is a sum, which of its terms."""
    found = []
    for name, metric in metrics.items():
        parts = terms(metric)
        for i, (_, mean) in enumerate(parts, start=1):
            x = float(mean.value()) if mean.count else float(mean.total)
            if not math.isfinite(x):
                found.append(f"{name}{f' (term {i} of {len(parts)})' if len(parts) > 1 else ''} {x}")
    return found


def _finder(graphdef: GraphDef, loss: LossFn, frozen: Collection[str]) -> Any:
    """(params, batch) -> (whether the loss of each row and its gradient are finite [B], name -> whether it is not)."""

    def find(params: Params, batch: Any) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        kept = {name: x for name, x in params.items() if name in frozen}
        trained = {name: x for name, x in params.items() if name not in frozen}

        def row(part: Any) -> jax.Array:
            one = jax.tree.map(lambda x: x[None], part)

            def objective(trained: Params) -> jax.Array:
                return jnp.asarray(value(evaluate(graphdef, loss, trained, kept, one, None)["loss"]))

            found, grads = jax.value_and_grad(objective)(trained)
            return jnp.isfinite(found) & jnp.isfinite(optax.tree.norm(grads))

        return jax.lax.map(row, batch), {name: ~jnp.all(jnp.isfinite(x)) for name, x in params.items()}

    return find


def _describe(rows: Sequence[int], examples: Sequence[Any], count: int, broken: Sequence[str]) -> str:
    if broken:
        return f"the parameters are not finite themselves: {', '.join(broken[:_SHOWN])}"
    if not rows:
        return f"each of its {count} rows is finite by itself, so it is their sum, or the parameters of that step"
    pairs = zip(rows, examples, strict=True)
    named = [f"row {row} (examples {', '.join(map(str, own)) or 'none'})" for row, own in pairs]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    whole = f"all {count} rows: " if len(rows) == count else ""
    return whole + ", ".join(named[:_SHOWN]) + more
