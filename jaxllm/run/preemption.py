"""SIGTERM: what was trained is saved and the process ends with status 143, all processes of a run together.

A script hears it from its start, by a thread of its own, so that a compilation does not delay it. Before the first step
nothing is owed and the process ends at once. From then on the loop is asked to stop, and does at the next point, a step
or a batch of an evaluation, that all processes agree on: the first that none of them has passed.

JAX has such an agreement too, but takes SIGTERM over for it, counts steps alone, and compares for equality with a
counter that Orbax sets back from the thread which saves; so it is switched off (`processes.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from jaxllm.distributed import messages
from jaxllm.run import lock

STATUS = 143
"""What a shell reports of a process that SIGTERM ended."""
_KEY = "jaxllm/sigterm/"
_POLL_S = 0.3
_PATIENCE_S = 30.0


class Terminated(SystemExit):
    """SIGTERM came; the state is saved."""

    def __init__(self) -> None:
        super().__init__(STATUS)


class _State:
    """Of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = threading.Event()
        self.listening = self.script = self.owed = False
        self.point = 0
        self.stop: int | None = None


_state = _State()


def asked() -> bool:
    """Whether SIGTERM has come to this process, or to another of the run."""
    return _state.asked.is_set()


def reached() -> bool:
    """Whether to save and stop now. All processes call this at the same points of the program, and hear the same."""
    with _state.lock:
        _state.point += 1
        if messages.client() is None:
            return _state.asked.is_set()
        return _state.stop is not None and _state.point >= _state.stop


def owe() -> None:
    """A step was taken: from now on SIGTERM waits for it to be saved."""
    with _state.lock:
        _state.owed = True


def settle() -> None:
    """All that was trained is saved. Raises Terminated if SIGTERM has come."""
    with _state.lock:
        _state.owed = False
    if _state.asked.is_set():
        raise Terminated


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Hears SIGTERM within, unless a script does already. Only in the main thread can it be heard."""
    global _state
    if _state.listening or threading.current_thread() is not threading.main_thread():
        try:
            yield
        finally:
            with _state.lock:
                _state.owed = False
        return
    _state = _State()
    _state.listening = True
    close = _listen(_state)
    try:
        yield
    finally:
        close()
        _state.listening = False


def listen_to_the_end() -> None:
    """Hears SIGTERM from now on; before the first step, and when all is saved, it ends the process at once."""
    if not _state.listening and threading.current_thread() is threading.main_thread():
        _state.listening = _state.script = True
        _listen(_state)


def connect() -> None:
    """Passes SIGTERM on between processes, once they are connected: what comes to one comes to all."""
    if messages.client() is None:
        return
    messages.beside(lambda: _agree(_state), _POLL_S, "sigterm")
    if _state.asked.is_set():
        _pass_on()


def leave(status: int) -> None:
    """Ends the process without waiting for anything that may hang; the process that the others depend on goes last."""
    sys.stdout.flush()
    sys.stderr.flush()
    lock.release_all()
    if (store := messages.client()) is not None:
        with contextlib.suppress(Exception):
            store.key_value_set(f"jaxllm/left/{messages.index()}", "", allow_overwrite=True)
            for process in range(1, messages.count()) if messages.index() == 0 else ():
                store.blocking_key_value_get(f"jaxllm/left/{process}", 5_000)
    os._exit(status)


def _listen(state: _State) -> Callable[[], None]:
    """Starts to hear; what is returned stops it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_hear, args=(state, read), daemon=True, name="signals")
    thread.start()

    def close() -> None:
        signal.set_wakeup_fd(fd_before)
        signal.signal(signal.SIGTERM, before)
        os.close(write)
        thread.join()
        os.close(read)

    return close


def _hear(state: _State, read: int) -> None:
    while numbers := os.read(read, 64):
        if signal.SIGTERM not in numbers:
            continue
        state.asked.set()
        if messages.client() is not None:
            _pass_on()
            continue
        with state.lock:
            if state.script and not state.owed:
                leave(STATUS)


def _pass_on() -> None:
    with contextlib.suppress(Exception):  # the others are gone: they need no telling
        messages.client().key_value_set(f"{_KEY}{messages.index()}", "", allow_overwrite=True)  # type: ignore[union-attr]


def _agree(state: _State) -> bool:
    """Looks whether SIGTERM has come to any process; then settles where all of them stop, and returns True."""
    store = messages.client()
    assert store is not None
    if not store.key_value_dir_get(_KEY):
        return False
    state.asked.set()
    with state.lock:  # the loop passes no point meanwhile
        here = str(state.point) if state.owed or not state.script else "none"
        try:
            store.key_value_set(f"jaxllm/point/{messages.index()}", here)
            points = [
                store.blocking_key_value_get(f"jaxllm/point/{process}", int(_PATIENCE_S * 1000))
                for process in range(messages.count())
            ]
        except Exception:
            print("error: the processes cannot agree where to stop; the last checkpoint stands", file=sys.stderr)
            leave(STATUS)
        if "none" in points:  # without that process nothing can be saved, or all of it is
            leave(STATUS)
        state.stop = max(map(int, points)) + 1
    return True
