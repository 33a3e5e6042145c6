"""What the benchmarks share: running a script to its end, and reading the speed of a run of ours."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError


def run(command: Sequence[object]) -> float:
    """Runs a script to its end; the most memory it held, in GB. Raises InputError with its last words if it fails."""
    with tempfile.TemporaryFile("w+") as heard:
        child = subprocess.Popen([sys.executable, *map(str, command)], stdout=heard, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            heard.seek(0)
            raise InputError(f"{command[0]} failed: {heard.read()[-300:]}")
    return usage.ru_maxrss / 2**20


def tokens_per_s(folder: Path) -> float:
    """Training tokens per second of a run, without what it logged first, where the process was warming up."""
    speeds = [line["tokens_per_s"] for line in read_jsonl(folder / "metrics.jsonl") if line.get("tokens_per_s")]
    return statistics.harmonic_mean(speeds[1:])
