"""What this process has used so far: time since it began, processor time, memory of the host and of devices."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_IMPORTED = time.monotonic()


def age_s() -> float:
    """Seconds since the process began; one that replaced itself (`os.execv`) began before. Elsewhere than on Linux,
    since this module was imported."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # field 22 of proc(5): start after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - _IMPORTED


def cpu_s() -> float:
    """Seconds of processor time, user and system, of all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def host_bytes(peak: bool = False) -> int | None:
    """Memory that the process holds, or held at most; None where it is not known.

    On Linux `ru_maxrss` begins with what the parent held, so it is read only where there is nothing better.
    """
    with contextlib.suppress(OSError, StopIteration):
        name = "VmHWM" if peak else "VmRSS"
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
    if peak:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def reset_peak() -> None:
    """Makes `host_bytes(peak=True)` begin anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def device_bytes(devices: Iterable[Any], peak: bool = False) -> int | None:
    """Memory that is in use, or was at most, on the fullest of these devices; None of CPUs, which share the host's."""
    name = "peak_bytes_in_use" if peak else "bytes_in_use"
    found = [stats[name] for device in devices if device.platform != "cpu" and (stats := device.memory_stats())]
    return max(found, default=None)
