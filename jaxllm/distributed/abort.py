"""Calls a handler when JAX aborts the process, so that it can say why before it ends."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_handler: Callable[[int], None] | None = None


def on_abort(handler: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Sets the handler, None for none; returns the previous one. JAX calls it in the thread that aborts."""
    global _handler
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_abort, ctypes.c_void_p) if handler else None)  # NULL is the default
    before, _handler = _handler, handler
    return before


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _abort(number: int) -> None:
    """Calls the handler and ends the process."""
    if _handler:
        _handler(number)
    os._exit(128 + number)
