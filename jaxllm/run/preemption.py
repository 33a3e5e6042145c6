"""SIGTERM and Ctrl-C: a run saves its state and ends with status 143 or 130, in all of its processes together.

A script listens from its start, in a separate thread, so that a compilation does not delay it. Before the first step
there is nothing to save and the process ends at once. From then on the loop stops at the next point (a step, or a batch
of an evaluation) that no process has passed yet. A second Ctrl-C ends the process at once. In a library call, such as
from a notebook, Ctrl-C stays a KeyboardInterrupt, raised after saving.

JAX has such an agreement too, but it takes over SIGTERM, counts steps only, and compares for equality with a counter
that Orbax resets from its saving thread; so it is switched off (`processes.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from jaxllm.distributed import messages
from jaxllm.run import lock

STATUS = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM ended."""
_KEY = "jaxllm/stop/"
_POLL_S = 0.3
_AGREE_S = 30.0
_REPEAT_S = 1.0
"""A SIGINT that follows another one sooner is the same Ctrl-C: the terminal sends it, and a launcher passes it on."""


class Terminated(SystemExit):
    """SIGTERM, or Ctrl-C in a script: the run stops here."""

    def __init__(self, status: int = STATUS) -> None:
        super().__init__(status)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a library call: the run stops here."""


class _State:
    """The signals of this process, and the point at which the run stops."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = threading.Event()
        self.status = STATUS
        self.listening = self.script = self.unsaved = False
        self.interrupted_at = 0.0
        self.point = 0
        self.stop: int | None = None

    def ask(self, status: int) -> None:
        """The first signal decides the exit status."""
        if not self.asked.is_set():
            self.status = status
            self.asked.set()

    def is_second_interrupt(self) -> bool:
        now, first = time.monotonic(), self.interrupted_at
        self.interrupted_at = first or now
        return bool(first) and now - first > _REPEAT_S


_state = _State()


def status() -> int | None:
    """143 if SIGTERM, 130 if Ctrl-C has come to any process of the run, else None."""
    return _state.status if _state.asked.is_set() else None


def reached() -> bool:
    """Whether to save and stop now. All processes call this at the same points of the program; all get one answer."""
    with _state.lock:
        _state.point += 1
        if messages.client() is None:
            return _state.asked.is_set()
        return _state.stop is not None and _state.point >= _state.stop


def stop() -> None:
    """Raises Terminated, or Interrupted after a Ctrl-C outside of a script."""
    raise Interrupted if _state.status != STATUS and not _state.script else Terminated(_state.status)


def check() -> None:
    """`stop` if the point is `reached`."""
    if reached():
        stop()


def step_taken() -> None:
    """From now on there is something to save before a signal ends the process."""
    with _state.lock:
        _state.unsaved = True


def all_saved() -> None:
    """There is nothing to save any more. Stops here if a signal has come."""
    with _state.lock:
        _state.unsaved = False
    if _state.asked.is_set():
        stop()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listens for signals inside the `with` block, unless a script does so already.

    Python lets only the main thread handle signals; in any other thread nothing changes.
    """
    global _state
    if _state.listening:
        try:
            yield
        finally:
            with _state.lock:
                _state.unsaved = False
        return
    _state = _State()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.listening = True
    close = _listen(_state)
    try:
        yield
    finally:
        close()
        _state.listening = False


def listen_to_the_end() -> None:
    """Listens until the process ends; a signal ends it at once while there is nothing to save."""
    if not _state.listening and threading.current_thread() is threading.main_thread():
        _state.listening = _state.script = True
        _listen(_state)


def connect() -> None:
    """Once the processes are connected: a signal that comes to one of them comes to all."""
    if messages.client() is None:
        return
    messages.beside(lambda: _agree(_state), _POLL_S, "stop")
    if _state.asked.is_set():
        _pass_on()


def leave(status: int) -> None:
    """Ends the process without waiting for anything that may hang; process 0, on which the others depend, goes last."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.isatty(1):  # erase the bar, which also hides the cursor
        os.write(1, b"\r\x1b[2K\x1b[?25h")
    lock.release_all()
    if (store := messages.client()) is not None:
        with contextlib.suppress(Exception):
            store.key_value_set(f"jaxllm/left/{messages.index()}", "", allow_overwrite=True)
            for process in range(1, messages.count()) if messages.index() == 0 else ():
                store.blocking_key_value_get(f"jaxllm/left/{process}", 5_000)
    os._exit(status)


def _listen(state: _State) -> Callable[[], None]:
    """Starts the listening thread; returns the function that stops it."""

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        if not state.script and (state.is_second_interrupt() or not state.unsaved):
            signal.default_int_handler(signum, frame)

    read, write = os.pipe()
    os.set_blocking(write, False)
    handlers = {signal.SIGTERM: lambda *_: None, signal.SIGINT: on_interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_handle_signals, args=(state, read), daemon=True, name="signals")
    thread.start()

    def close() -> None:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python
        os.close(write)
        thread.join()
        os.close(read)

    return close


def _handle_signals(state: _State, read: int) -> None:
    while numbers := os.read(read, 64):
        for number in numbers:
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            state.ask(128 + number)
            if number == signal.SIGINT and state.script and state.is_second_interrupt():
                leave(state.status)
            if messages.client() is not None:
                _pass_on()
                continue
            with state.lock:
                if state.script and not state.unsaved:
                    leave(state.status)


def _pass_on() -> None:
    with contextlib.suppress(Exception):  # the others are gone already
        key = f"{_KEY}{messages.index()}"
        messages.client().key_value_set(key, str(_state.status), allow_overwrite=True)  # type: ignore[union-attr]


def _agree(state: _State) -> bool:
    """Looks whether a signal has come to any process; then agrees with all of them where to stop, and returns True."""
    store = messages.client()
    assert store is not None
    signals = store.key_value_dir_get(_KEY)
    if not signals:
        return False
    state.ask(int(signals[0][1]))
    with state.lock:  # the loop passes no point in the meantime
        here = str(state.point) if state.unsaved or not state.script else "none"
        try:
            store.key_value_set(f"jaxllm/point/{messages.index()}", here)
            points = [
                store.blocking_key_value_get(f"jaxllm/point/{process}", int(_AGREE_S * 1000))
                for process in range(messages.count())
            ]
        except Exception:
            print("error: the processes cannot agree where to stop; the last checkpoint stands", file=sys.stderr)
            leave(state.status)
        if "none" in points:  # without that process nothing can be saved, or all of it is saved
            leave(state.status)
        state.stop = max(map(int, points)) + 1
    return True
