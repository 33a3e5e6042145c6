"""What every peer reports of its run, with neither jax nor jaxllm imported: `{"measured": {...}}` in its JSON file."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import torch

GIB = 2**30


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """Seconds on the monotonic clock, once the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def start() -> dict[str, float]:
    """Seconds since this process began, and its processor time; to be called when the first step has ended."""
    now()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    used = resource.getrusage(resource.RUSAGE_SELF)
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return {"start_s": age_s, "start_cpu_s": used.ru_utime + used.ru_stime}


def memory() -> dict[str, float | None]:
    """The most memory that the process held, and that was in use on the GPU, in GiB.

    Not `ru_maxrss`, which begins with what the process that started this one held.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    host = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host_gib": host / GIB, "device_gib": None if on_gpu is None else on_gpu / GIB}


class Steps:
    """When steps ended: `begin` before the first, `step` after each."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.first: dict[str, float] = {}

    def begin(self) -> None:
        self.times_s.append(now())

    def step(self) -> None:
        if len(self.times_s) == 1:
            self.first = start()
        self.times_s.append(time.perf_counter())

    def seconds(self, untimed: int) -> float:
        """Of all steps after the untimed ones."""
        return self.times_s[-1] - self.times_s[untimed]

    def report(self, untimed: int, **rates: float) -> dict[str, float | None]:
        """The entry "measured". rates: such as tokens_per_s, over the steps that are timed."""
        steps = len(self.times_s) - 1 - untimed
        return {**rates, "step_s": self.seconds(untimed) / steps, **self.first, **memory()}
