"""Tokens per second, and the share of the chip's peak that they use (MFU)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

PEAK_FLOPS = {
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bfloat16 FLOP/s of a device by the beginning of its kind, from the makers' data sheets."""


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known."""
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


class Clock:
    """Measures the speed of training alone: compiling, evaluating and saving are not counted."""

    def __init__(self, mesh: Mesh, flops_per_token: float):
        self.compile_s = 0.0
        self._began = self._lap = time.monotonic()
        self._tokens = self._pending = 0
        self._paused_s = 0.0
        self.total = 0
        """Real tokens that the run has seen, over all processes, up to the last `sync`."""
        peak = peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size / flops_per_token

    def count(self, batch: Any) -> None:
        """Counts the real tokens of a batch: the rows of this process, as numpy arrays."""
        segments = getattr(batch, "batch", batch).segments_BT
        self._pending += int(np.count_nonzero(segments))

    def sync(self) -> None:
        """Adds up what the processes have counted; each of them calls this."""
        new, self._pending = self._pending, 0
        if jax.process_count() > 1:
            new = int(np.sum(multihost_utils.process_allgather(np.int32(new))))
        self._tokens, self.total = self._tokens + new, self.total + new

    def compiled(self) -> None:
        """The first step, which compiles and so tells nothing about speed, is done."""
        self.compile_s = time.monotonic() - self._began
        self.sync()
        self._tokens, self._paused_s, self._lap = 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time that is spent inside the `with` block."""
        began = time.monotonic()
        yield
        self._paused_s += time.monotonic() - began

    def lap(self) -> dict[str, float | None]:
        """tokens_per_s and mfu since the last call; None where nothing was timed."""
        self.sync()
        now, tokens = time.monotonic(), self._tokens
        speed = tokens / (now - self._lap - self._paused_s) if tokens else None
        self._tokens, self._paused_s, self._lap = 0, 0.0, now
        return {"tokens_per_s": speed, "mfu": speed / self._peak if speed and self._peak else None}
