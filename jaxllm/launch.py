"""`python -m jaxllm.launch`: runs a script in several processes on this machine's CPU, as it would run on a pod.

    python -m jaxllm.launch --processes 4 --devices-per-process 2 experiments/ner.py --mesh fsdp=8

Every line of output begins with the number of the process that printed it; an error that several report is shown
once. SIGTERM is passed on to all processes, also when only one of them was ended by it. When a process fails it is
named, and the others are killed if they do not end within --grace seconds.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from jaxllm.recipes.script import input_errors, parse
from jaxllm.types import InputError

# Gloo's threads print their greetings a piece at a time, so that two of them may share a line or break one.
NOISE = re.compile(r"\[Gloo\] Rank| is connected to |peer ranks")
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs SCRIPT with its arguments (or -m MODULE ...) in several processes on this machine's CPU."""

    processes: int = 2
    """Number of processes."""
    devices_per_process: int = 1
    """Number of CPU devices that each process sees."""
    grace: float = 60.0
    """Seconds that the other processes have to end by themselves when one has failed; then they are killed."""


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the flags of this program from the command, which begins at the first word that is no flag or value."""
    at = 0
    while at < len(argv) and argv[at].startswith("--"):
        if argv[at] in ("--", "--help"):
            break
        at += 1 if "=" in argv[at] else 2
    if at < len(argv) and argv[at] == "--help":
        return ["--help"], []
    return list(argv[:at]), [x for i, x in enumerate(argv[at:]) if i or x != "--"]


def environment(config: Config, coordinator: str, index: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a process: `base`, with its number and its CPU devices."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\S+", "", base.get("XLA_FLAGS", "")).split()
    flags += [f"--xla_force_host_platform_device_count={config.devices_per_process}"]
    return {
        **base, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), "PYTHONUNBUFFERED": "1",
        "JAXLLM_COORDINATOR": coordinator, "JAXLLM_PROCESSES": str(config.processes), "JAXLLM_PROCESS_ID": str(index),
    }  # fmt: skip


class Printer:
    """Prints lines of several processes, each after the number of its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: set[str] = set()

    def copy(self, source: IO[str], target: IO[str], index: int) -> None:
        """Prints the lines of `source` to `target` until it ends."""
        for line in source:
            with self._lock:
                if NOISE.search(line) or (line.startswith("error: ") and line in self._errors):
                    continue
                if line.startswith("error: "):
                    self._errors.add(line)
                print(f"[{index}] {line}", end="" if line.endswith("\n") else "\n", file=target, flush=True)


def launch(config: Config, command: Sequence[str]) -> int:
    """Runs the processes and returns the status to exit with: that of the first one that failed, 0 for none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    running: list[subprocess.Popen[str]] = []
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    for i in range(config.processes):
        running.append(
            subprocess.Popen(
                [sys.executable, *command], env=environment(config, coordinator, i, os.environ), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace", preexec_fn=die_with_parent,
            )
        )  # fmt: skip
        if asked:  # the signal may have come before this process was in `running`
            running[-1].send_signal(asked[-1])
            break
    printer = Printer()
    threads = [
        threading.Thread(target=printer.copy, args=(source, target, i), daemon=True)
        for i, process in enumerate(running)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for thread in threads:
        thread.start()
    status = _wait(running, config.grace)
    for thread in threads:
        thread.join(5)
    for number, handler in before.items():
        signal.signal(number, handler)
    return status


def _wait(running: Sequence[subprocess.Popen[str]], grace: float) -> int:
    first, deadline = 0, math.inf
    while True:
        left = [process for process in running if process.poll() is None]
        failed = next(((i, process) for i, process in enumerate(running) if process.returncode), None)
        if failed and not first:
            i, process = failed
            first, how = _ended(process.returncode)
            print(f"process {i} (pid {process.pid}) {how}", file=sys.stderr, flush=True)
            deadline = time.monotonic() + grace
            if first == 128 + signal.SIGTERM:
                for other in left:
                    other.terminate()
        if not left:
            return first
        if time.monotonic() > deadline:
            for process in left:
                print(f"killing process {running.index(process)}, which did not end", file=sys.stderr, flush=True)
                process.kill()
                process.wait()
        time.sleep(0.05)


def _ended(status: int) -> tuple[int, str]:
    """The exit status of a process as a shell reports it, and how it ended in words."""
    if status < 0:
        return 128 - status, f"was killed by {signal.Signals(-status).name}"
    return status, f"ended with status {status}"


def die_with_parent() -> None:
    """Has the kernel kill this process, which was just started, when the process that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags, runs the processes and exits with their status."""
    with input_errors():
        own, command = split(sys.argv[1:] if argv is None else argv)
        config = parse(Config, own, prog="python -m jaxllm.launch")
        if config.processes < 1 or config.devices_per_process < 1:
            raise InputError("--processes and --devices-per-process: at least 1 of each is needed")
        if not 0 <= config.grace < math.inf:
            raise InputError(f"--grace {config.grace}: give a finite number of seconds, 0 or more")
        if not command:
            raise InputError("name the script to run, and its arguments (see --help)")
        if command[0] != "-m" and not os.path.isfile(command[0]):
            raise InputError(f"{command[0]}: there is no such script")
        sys.exit(launch(config, command))


if __name__ == "__main__":
    main()
