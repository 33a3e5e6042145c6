"""Tokens per second, FLOP/s, and the share of the chip's peak that they are (MFU)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxllm.distributed.chips import peak_flops
from jaxllm.run.usage import age_s, cpu_s

Flops = Callable[[Any], float]
"""The model FLOPs of a step for the rows of a batch (models/flops.py)."""


class Clock:
    """Measures the speed of training alone: compiling, evaluating and saving are not counted."""

    def __init__(self, mesh: Mesh, flops: Flops):
        self.compile_s = 0.0
        self.start: dict[str, float] = {}
        """Seconds from the start of the process to the end of the first step, and processor time used by then."""
        self._began = self._lap = time.monotonic()
        self._tokens = self._pending = 0
        self._paused_s = 0.0
        self.total = 0
        """Real tokens that the run has seen, over all processes, up to the last `sync`."""
        self._of, self._flops, self._computed = flops, 0.0, 0.0
        self._devices, self._peak = mesh.size, peak_flops(mesh.devices.flat[0])

    def count(self, batch: Any) -> None:
        """Counts the real tokens of a batch, and its FLOPs: the rows of this process, as numpy arrays."""
        segments = getattr(batch, "batch", batch).segments_BT
        self._pending += int(np.count_nonzero(segments))
        self._computed += self._of(batch)

    def sync(self) -> None:
        """Adds up what the processes have counted; each of them calls this."""
        new, self._pending = self._pending, 0
        flops, self._computed = self._computed, 0.0
        if jax.process_count() > 1:
            all_new, all_flops = multihost_utils.process_allgather((np.int32(new), np.float32(flops)))
            new, flops = int(np.sum(all_new)), float(np.sum(all_flops))
        self._tokens, self.total, self._flops = self._tokens + new, self.total + new, self._flops + flops

    def compiled(self) -> None:
        """The first step, which compiles and so tells nothing about speed, is done."""
        self.compile_s = time.monotonic() - self._began
        self.start = {"start_s": age_s(), "start_cpu_s": cpu_s()}
        self.sync()
        self._tokens, self._flops, self._paused_s, self._lap = 0, 0.0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time that is spent inside the `with` block."""
        began = time.monotonic()
        yield
        self._paused_s += time.monotonic() - began

    def lap(self) -> dict[str, float | None]:
        """tokens_per_s, tflops_per_device and mfu since the last call; None without steps, mfu also without a peak.

        FLOPs are the model's: those that training needs, whatever is recomputed.
        """
        self.sync()
        now, tokens, flops = time.monotonic(), self._tokens, self._flops
        seconds = now - self._lap - self._paused_s
        self._tokens, self._flops, self._paused_s, self._lap = 0, 0.0, 0.0, now
        speed = flops / seconds / self._devices if tokens else None
        return {
            "tokens_per_s": tokens / seconds if tokens else None,
            "tflops_per_device": None if speed is None else speed / 1e12,
            "mfu": speed / self._peak if speed and self._peak else None,
        }
