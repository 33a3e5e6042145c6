"""A time limit on code that is not ours: a reward function, a script that is planned."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class TooLong(BaseException):
    """The code took longer than it may. No `except Exception` in it catches this."""


@contextlib.contextmanager
def time_limit(seconds: float, message: str = "") -> Iterator[None]:
    """Raises TooLong inside the `with` block after so many seconds, in the main thread; 0 for no limit.

    A signal interrupts a loop, a sleep and a regular expression alike, which a watching thread could not; a long call
    in C it interrupts at its end. One limit at a time.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooLong(message or f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
