"""The log of training steps: their metrics are fetched, summed, checked for values that are not finite, and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxllm.run.clock import Clock
from jaxllm.run.metrics import Writers
from jaxllm.run.spikes import Spikes
from jaxllm.run.sums import Sums
from jaxllm.train.nonfinite import NonfiniteReporter, NotFinite
from jaxllm.types import Metrics, Params, value


class StepLog:
    """Metrics stay on the device until a line, an evaluation or a checkpoint is due, so that steps overlap.

    skip: log a step that is not finite and go on, instead of raising NotFinite. meta: a checkpoint's meta data, from
    which sums and counts continue.
    """

    def __init__(
        self, writers: Writers, clock: Clock, nonfinite: NonfiniteReporter, skip: bool, meta: Mapping[str, Any]
    ):
        self.writers, self.clock = writers, clock
        self._nonfinite, self._skip = nonfinite, skip
        self._sums, self._spikes = Sums(meta.get("sums")), Spikes(meta.get("spikes", ()))
        self._pending: list[tuple[int, Any, Metrics]] = []
        clock.total = meta.get("tokens", 0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the log to continue. All processes call this."""
        self.clock.sync()
        return {"sums": self._sums.state, "tokens": self.clock.total, "spikes": self._spikes.state}

    def count(self, batch: Any) -> None:
        """Counts the tokens of the next step's batch: the numpy rows of this process."""
        self.clock.count(batch)
        if self.writers.terminal and not self.clock.compile_s:
            self.writers.terminal.show("compiling")

    def add(self, step: int, batch: Any, metrics: Metrics) -> None:
        """Adds a step. metrics: on the device. Waits for the first step, which compiles."""
        self._pending.append((step, batch, metrics))
        if not self.clock.compile_s:
            jax.block_until_ready(metrics)
            self.clock.compiled()
        if self.writers.terminal:
            self.writers.terminal.show("training", step)

    def collect(self, params: Params) -> None:
        """Fetches the steps that were added and adds them up; reports spikes, and steps that are not finite.

        params: all parameters as they are now. Raises NotFinite.
        """
        pending, self._pending = self._pending, []
        fetched = jax.device_get([metrics for _, _, metrics in pending])
        for (step, batch, _), metrics in zip(pending, fetched, strict=True):
            skipped = bool(value(metrics["skipped"]))
            self._sums.add({"skipped": metrics["skipped"]} if skipped else metrics)
            loss = float(value(metrics["loss"]))
            if (before := self._spikes.add(loss)) is not None:
                self.writers.write(step, {"spike/loss": loss, "spike/before": before})
            if not skipped:
                continue
            line = self._nonfinite(step, batch, metrics, params)
            if not self._skip:
                raise NotFinite(
                    f"{line}; the last good state is saved. Look at these rows, lower --learning-rate, or go on with "
                    "--on-nan skip"
                )
            self.writers.print(f"skipped: {line}")

    def write(self, step: int, learning_rate: float | None, epoch: float) -> None:
        """Writes the means of all steps since the last line but those that were skipped; NaN where all were."""
        numbers, self._sums = {"loss": math.nan, "grad_norm": math.nan, **self._sums.values()}, Sums()
        skipped = numbers.pop("skipped")
        lap = self.clock.lap()
        line = {**numbers, "learning_rate": learning_rate, "epoch": epoch, **lap, "tokens": self.clock.total}
        self.writers.write(step, {**line, "skipped": skipped} if skipped else line)
