"""Watchdogs: who died and at which step, where a step hangs.

JAX ends every process when one of them stops answering, without a word on which step that was; here each leaves its
last step with the others, and what JAX's abort would not say is said. A process that ends by an error tells the others
why, which then need not wait to miss it.
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
    """Of this process."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.since = time.monotonic()
        self.hang_s = 0.0
        self.heard: dict[int, tuple[str, float]] = {}
        """Of each process its last note, and when it came."""


_state = _State()
_name = f"{socket.gethostname()}, process {os.getpid()} there"


def step(number: int) -> None:
    """The loop begins this step, or is still alive within it."""
    _state.step, _state.since = number, time.monotonic()


@contextlib.contextmanager
def loop(hang_s: float) -> Iterator[None]:
    """Within, a step that takes longer than `hang_s` seconds ends the process, and says where it stands (0: never)."""
    done = threading.Event()
    _state.since, _state.hang_s = time.monotonic(), hang_s
    if hang_s:
        threading.Thread(target=_watch_for_hangs, args=(done,), daemon=True, name="hangs").start()
    try:
        yield
    finally:
        _state.hang_s = 0.0
        done.set()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Within, nothing counts as hanging."""
    before, _state.hang_s = _state.hang_s, 0.0
    try:
        yield
    finally:
        _state.since, _state.hang_s = time.monotonic(), before


def connect() -> None:
    """Starts to tell the other processes of this one's steps, and to hear of theirs."""
    if messages.client() is not None:
        messages.beside(_listen, _TICK_S, "watch")
        abort.on_abort(_last_words)
        atexit.register(abort.on_abort, None)


def lost() -> str | None:
    """After a failure that may be the loss of another process: which of them has fallen silent, in words.

    Waits for as long as silence takes to be sure; None if all speak. Should another one end or SIGTERM have come
    meanwhile, this process ends with it.
    """
    deadline = time.monotonic() + _SILENT_S + 5 * _TICK_S
    while messages.client() is not None and time.monotonic() < deadline:
        if silent := _silent():
            return silent[0]
        time.sleep(_TICK_S)
    return None


def tell(why: str, status: int) -> None:
    """Tells the other processes that this one ends, so that they do too."""
    if (store := messages.client()) is not None:
        with contextlib.suppress(Exception):
            text = f"{status} process {messages.index()} ({_name}) ended {_at(_state.step)}: {why}"
            store.key_value_set(f"jaxllm/end/{messages.index()}", text, allow_overwrite=True)


def _listen() -> bool:
    store = messages.client()
    assert store is not None
    now = time.monotonic()
    store.key_value_set(f"jaxllm/step/{messages.index()}", f"{now} {_state.step} {_name}", allow_overwrite=True)
    for key, note in store.key_value_dir_get("jaxllm/step/"):
        process = int(key.rpartition("/")[2])
        if _state.heard.get(process, ("", 0.0))[0] != note:
            _state.heard[process] = note, now
    ends = dict(store.key_value_dir_get("jaxllm/end/"))
    ends.pop(f"jaxllm/end/{messages.index()}", None)
    if ends and not preemption.asked():
        status, _, why = sorted(ends.values())[0].partition(" ")
        if "hang" in why:
            faulthandler.dump_traceback(2)
        _say(why)
        preemption.leave(int(status))
    return False


def _last_words(signum: int) -> None:
    if preemption.asked():  # the process with the service has saved, and left
        os._exit(preemption.STATUS)
    silent = _silent()
    if not silent and messages.index() > 0 and 0 in _state.heard:
        silent = [_death(0)]
    for text in silent:
        _say(text)
    _say(f"process {messages.index()} ends {_at(_state.step)}: JAX lost another process, or failed itself")
    os._exit(1)


def _silent() -> list[str]:
    """The other processes that have said nothing for a while."""
    now = time.monotonic()
    return [_death(i) for i, (_, at) in sorted(_state.heard.items()) if now - at > _SILENT_S and i != messages.index()]


def _death(process: int) -> str:
    _, last, name = _state.heard[process][0].split(" ", 2)
    return f"process {process} ({name}) died; it was last heard of {_at(last)}"


def _at(step: int | str | None) -> str:
    return "before its first step" if step in (None, "None") else f"at step {step}"


def _watch_for_hangs(done: threading.Event) -> None:
    while not done.wait(min(_TICK_S, _state.hang_s / 4 or _TICK_S)):
        hang_s = _state.hang_s
        if hang_s:  # should this thread not come to it, for a thread in C holds Python's lock, faulthandler does
            faulthandler.dump_traceback_later(1.5 * hang_s + 5, exit=True, file=2)
        else:
            faulthandler.cancel_dump_traceback_later()
        if hang_s and time.monotonic() - _state.since > hang_s:
            why = f"step {_state.step} hangs: nothing has come of it for {hang_s:g} s"
            faulthandler.dump_traceback(2)
            _say(f"{why}; above is where each thread stands")
            tell(why, 1)
            preemption.leave(1)
    faulthandler.cancel_dump_traceback_later()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"error: {text}\n".encode())
