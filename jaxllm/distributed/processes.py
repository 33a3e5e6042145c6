"""Connects the processes of a run, and checks that they fit together before any device is started."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxllm.distributed import abort, messages
from jaxllm.distributed.cluster import Place, gpus
from jaxllm.types import InputError

HEARTBEAT_S = 30
"""Seconds of silence after which JAX counts a process as dead."""
LOCAL_S, REMOTE_S = 60, 300
"""Seconds within which all processes must have connected: on one host, and on several."""
_LOOPBACK_S = 15
"""Seconds to wait for process 0 at a loopback address."""


def join(
    place: Place, environ: Mapping[str, str], versions: Mapping[str, str], *, cpu: bool, connected: Callable[[], None]
) -> bool:
    """Connects the processes and checks that they fit together. Returns whether there are several.

    versions: of packages, which all processes must share. connected: called when the processes are connected, before
    they are compared. Raises InputError in all processes if they do not fit.
    """
    if place.coordinator:
        _check_address(place)
    devices, claimed = gpus(place, environ) if not cpu else (None, [])
    jax.config.update("jax_enable_preemption_service", False)  # see preemption.py
    timeout = LOCAL_S if place.coordinator and _is_loopback(place.coordinator) else REMOTE_S
    with _in_one_line(place, timeout):
        try:
            _initialize(place, devices, timeout)
        except ValueError as error:
            if place.coordinator is None and "coordinator_address" in str(error):
                return False  # a TPU VM that is alone
            raise InputError(f"the processes could not be connected: {error}") from None
        if messages.count() == 1:
            return False
        messages.connected()
        connected()
        note = json.dumps(_note(place, claimed, versions, cpu))
        there = json.loads(messages.broadcast(note, 60))["processes"]  # a process that expects more would wait for them
        notes = [json.loads(text) for text in messages.exchange(note, 60, there)]
    if problem := disagreement(notes):
        _end_alone(problem)
        raise InputError(problem)
    return True


def check_devices() -> None:
    """Raises InputError, in all processes, where one has more devices than another. Starts the devices."""
    hosts = messages.exchange(socket.gethostname())
    counts = [sum(d.process_index == i for d in jax.devices()) for i in range(messages.count())]
    if odd := next((i for i, n in enumerate(counts) if n != counts[0]), None):
        problem = (
            f"process {odd} ({hosts[odd]}) has {counts[odd]} devices, process 0 ({hosts[0]}) "
            f"{counts[0]}: each must have as many"
        )
        _end_alone(problem)
        raise InputError(problem)


def disagreement(notes: Sequence[Mapping[str, Any]]) -> str | None:
    """Why processes with these notes (`_note`) cannot work together, in one line; None if they can."""
    first = notes[0]
    for i, note in enumerate(notes):
        here, there = f"process {i} ({note['host']})", f"process 0 ({first['host']})"
        for name, remedy in (
            ("processes", "start as many as you say there are"),
            ("platform", "all must run on the same kind of device"),
            ("code", "give every host the same revision"),
            ("command", "give every process the same command"),
        ):
            if note[name] != first[name]:
                return f"{name} of {here} is {note[name]}, of {there} {first[name]}: {remedy}"
        for name in sorted(note["versions"].keys() | first["versions"].keys()):
            pair = [one["versions"].get(name, "not installed") for one in (note, first)]
            if pair[0] != pair[1]:
                return f"{name} of {here} is {pair[0]}, of {there} {pair[1]}: install the same versions everywhere"
    claimed: dict[tuple[str, str], int] = {}
    for i, note in enumerate(notes):
        for gpu in note["gpus"]:
            other = claimed.setdefault((note["host"], gpu), i)
            if other != i:
                return (
                    f"processes {other} and {i} both claim GPU {gpu} of {note['host']}: start one process a host, or "
                    "give each its own by CUDA_VISIBLE_DEVICES"
                )
    return None


def _note(place: Place, claimed: Sequence[str], versions: Mapping[str, str], cpu: bool) -> dict[str, Any]:
    """What the processes compare about each other."""
    return {
        "host": socket.gethostname(), "processes": place.count or messages.count(), "gpus": list(claimed),
        "platform": "cpu" if cpu else "gpu" if claimed else "other", "code": _code(), "versions": dict(versions),
        "command": _command(sys.argv[1:]),
    }  # fmt: skip


def _command(argv: Sequence[str]) -> str:
    """The arguments without the index of the process."""
    return re.sub(r"--process[-_]id(=|\s+)\S+\s?", "", " ".join(argv)).strip()


def _code() -> str:
    """A hash of the files of this package and of the script."""
    state = hashlib.sha256()
    script = Path(sys.argv[0])
    for path in [*sorted(Path(__file__).parents[1].rglob("*.py")), *([script] if script.suffix == ".py" else [])]:
        if path.is_file():
            state.update(path.read_bytes())
    return state.hexdigest()[:12]


def _check_address(place: Place) -> None:
    host, _, port = str(place.coordinator).rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator {place.coordinator}: give HOST:PORT")
    loopback = _is_loopback(str(place.coordinator))
    remedy = "give the address that other hosts know the host of process 0 by"
    if loopback and (place.hosts or 1) > 1:
        raise InputError(f"coordinator {place.coordinator} is each host's own loopback address: {remedy}")
    if place.index == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise InputError(f"--coordinator {place.coordinator}: port {port}: {error.strerror}") from None
        return
    began, patience = time.monotonic(), _LOOPBACK_S if loopback else REMOTE_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 5).close()
            return
        except OSError as error:
            if time.monotonic() - began > patience:
                raise InputError(
                    f"nothing answers {socket.gethostname()} at {place.coordinator} for {patience} s "
                    f"({error.strerror or error}): start process 0"
                    + (f", or if it is on another host, {remedy}" if loopback else "")
                ) from None
            time.sleep(0.2)


def _is_loopback(coordinator: str) -> bool:
    host = coordinator.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _initialize(place: Place, devices: list[int] | None, timeout: int) -> None:
    jax.distributed.initialize(
        place.coordinator,
        place.count or None,
        place.index if place.coordinator else None,
        devices,
        cluster_detection_method="deactivate" if place.coordinator else None,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT_S,
    )


def _end_alone(problem: str) -> None:
    """Keeps JAX from aborting this process because another ended first, before it said why or when Python ends."""

    def explain(_: int) -> None:
        os.write(2, f"error: {problem}\n".encode())
        os._exit(2)

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)

    abort.on_abort(explain)
    atexit.register(leave)


@contextlib.contextmanager
def _in_one_line(place: Place, timeout: int) -> Iterator[None]:
    """Turns JAX's abort, when other processes do not connect in time, into one line and exit status 2."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)

        def explain(_: int) -> None:
            text = os.pread(captured.fileno(), 1 << 20, 0).decode(errors="replace")
            number = place.count or "the"
            why = f"not all of {number} processes came to {place.coordinator} within {timeout} s: start each of them"
            if "different incarnation" in text:
                why = f"two processes of those at {place.coordinator} have the same number: give each its own"
            os.write(terminal, f"error: {why}\n".encode())
            os._exit(2)

        before = abort.on_abort(explain)
        try:
            yield
        finally:
            abort.on_abort(before)
            os.dup2(terminal, 2)
            os.close(terminal)
