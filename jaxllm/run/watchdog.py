"""Watchdogs that end a run with a clear line when one of its processes dies, fails or hangs.

JAX ends every process when one of them stops answering, without saying which one or at which step. So each process
publishes its step, and the others report the last one they saw. A process that ends by an error publishes the reason,
and the others end at once instead of waiting for a time-out.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import socket
import threading
import time
from collections.abc import Iterator

from jaxllm.distributed import abort, messages
from jaxllm.run import preemption

_TICK_S = 1.0
_SILENT_S = 15.0


class _State:
    """The step of this process, and what the others published."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.since = time.monotonic()
        self.limit_s = self.hang_s = 0.0
        """Seconds that a step may take; and now, with 0 for no limit."""
        self.notes: dict[int, tuple[str, float]] = {}
        """The last note of each process, and when it came."""


_state = _State()
_name = f"{socket.gethostname()}, process {os.getpid()} there"


def step(number: int) -> None:
    """Records that this step begins, or that it still makes progress."""
    _state.step, _state.since = number, time.monotonic()


def step_taken() -> None:
    """Steps are limited from now on: the first one, which compiles, is done."""
    _state.since, _state.hang_s = time.monotonic(), _state.limit_s


@contextlib.contextmanager
def loop(hang_s: float) -> Iterator[None]:
    """Ends the process, with a stack trace, if a step inside the `with` block takes longer than `hang_s` seconds.

    0 means no limit. The first step has none, for it compiles.
    """
    done = threading.Event()
    _state.limit_s = hang_s
    if hang_s:
        threading.Thread(target=_watch_for_hangs, args=(done,), daemon=True, name="hangs").start()
    try:
        yield
    finally:
        _state.limit_s = _state.hang_s = 0.0
        done.set()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Suspends the limit on the time of a step inside the `with` block."""
    before, _state.hang_s = _state.hang_s, 0.0
    try:
        yield
    finally:
        _state.since, _state.hang_s = time.monotonic(), before


def connect() -> None:
    """Starts publishing the step of this process to the others, and reading theirs."""
    if messages.client() is not None:
        messages.beside(_exchange, _TICK_S, "watch")
        abort.on_abort(_explain_abort)
        atexit.register(abort.on_abort, None)


def lost() -> str | None:
    """After a failure that the loss of another process may have caused: the process that went silent, as a sentence.

    Waits until silence is certain; None if every process still publishes. If another process ends in the meantime, or a
    signal has come, this process ends too.
    """
    deadline = time.monotonic() + _SILENT_S + 5 * _TICK_S
    while messages.client() is not None and time.monotonic() < deadline:
        if silent := _silent():
            return silent[0]
        time.sleep(_TICK_S)
    return None


def tell(why: str, status: int) -> None:
    """Publishes that this process ends, and why, so that the others end too."""
    if (store := messages.client()) is not None:
        with contextlib.suppress(Exception):
            text = f"{status} process {messages.index()} ({_name}) ended {_at(_state.step)}: {why}"
            store.key_value_set(f"jaxllm/end/{messages.index()}", text, allow_overwrite=True)


def _exchange() -> bool:
    store = messages.client()
    assert store is not None
    now = time.monotonic()
    store.key_value_set(f"jaxllm/step/{messages.index()}", f"{now} {_state.step} {_name}", allow_overwrite=True)
    for key, note in store.key_value_dir_get("jaxllm/step/"):
        process = int(key.rpartition("/")[2])
        if _state.notes.get(process, ("", 0.0))[0] != note:
            _state.notes[process] = note, now
    ends = dict(store.key_value_dir_get("jaxllm/end/"))
    ends.pop(f"jaxllm/end/{messages.index()}", None)
    if ends and preemption.status() is None:
        status, _, why = sorted(ends.values())[0].partition(" ")
        if "hang" in why:
            faulthandler.dump_traceback(2)
        _print(why)
        preemption.leave(int(status))
    return False


def _explain_abort(signum: int) -> None:
    if status := preemption.status():  # process 0, which runs the service, has saved and left
        os._exit(status)
    silent = _silent()
    if not silent and messages.index() > 0 and 0 in _state.notes:
        silent = [_died(0)]
    for text in silent:
        _print(text)
    _print(f"process {messages.index()} ends {_at(_state.step)}: JAX lost another process, or failed itself")
    os._exit(1)


def _silent() -> list[str]:
    """A sentence for each other process that has published nothing for a while."""
    now = time.monotonic()
    return [_died(i) for i, (_, at) in sorted(_state.notes.items()) if now - at > _SILENT_S and i != messages.index()]


def _died(process: int) -> str:
    _, last, name = _state.notes[process][0].split(" ", 2)
    return f"process {process} ({name}) died; it was last heard of {_at(last)}"


def _at(step: int | str | None) -> str:
    return "before its first step" if step in (None, "None") else f"at step {step}"


def _watch_for_hangs(done: threading.Event) -> None:
    while not done.wait(min(_TICK_S, _state.hang_s / 4 or _TICK_S)):
        hang_s = _state.hang_s
        if hang_s:  # faulthandler still works when a thread in C holds Python's lock and this thread cannot run
            faulthandler.dump_traceback_later(1.5 * hang_s + 5, exit=True, file=2)
        else:
            faulthandler.cancel_dump_traceback_later()
        if hang_s and time.monotonic() - _state.since > hang_s:
            why = f"step {_state.step} hangs: nothing has come of it for {hang_s:g} s"
            faulthandler.dump_traceback(2)
            _print(f"{why}; above is where each thread stands")
            tell(why, 1)
            preemption.leave(1)
    faulthandler.cancel_dump_traceback_later()


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"error: {text}\n".encode())
