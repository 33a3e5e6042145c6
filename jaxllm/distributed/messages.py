"""Short notes between the processes of a run, left with JAX's coordination service: no device takes part.

It stands as soon as `jax.distributed.initialize` has returned, before a device is looked for: `connected` says so. A
call that came before would hang, or be taken for a broken service and end the process. With one process there is no
service, and each function gives back what it was given.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from collections.abc import Callable
from typing import Any

from jax._src import distributed  # the service's store has no public door

from jaxllm.types import InputError

TIMEOUT_S = 300.0
_calls = itertools.count()
_connected = threading.Event()


def index() -> int:
    """The number of this process; does not start a device, as `jax.process_index` would."""
    return distributed.global_state.process_id or 0


def count() -> int:
    """How many processes there are."""
    return distributed.global_state.num_processes or 1


def connected() -> None:
    """The processes are connected: from now on there is a store."""
    _connected.set()


def client() -> Any | None:
    """The store, None where there is one process, or it is not connected yet."""
    return distributed.global_state.client if _connected.is_set() else None


def exchange(text: str, timeout_s: float = TIMEOUT_S, processes: int = 0) -> list[str]:
    """The texts of all processes (or of the first so many), by process. All call this, in one order of calls.

    Raises InputError that names the first process which leaves no text in time.
    """
    store = client()
    if store is None:
        return [text]
    key = f"jaxllm/exchange/{next(_calls)}"
    store.key_value_set(f"{key}/{index()}", text)
    return [_read(store, f"{key}/{i}", i, timeout_s) for i in range(processes or count())]


def broadcast(text: str, timeout_s: float = TIMEOUT_S) -> str:
    """The text of process 0. Every process calls this, in one order of calls."""
    store = client()
    if store is None:
        return text
    key = f"jaxllm/broadcast/{next(_calls)}"
    if index() == 0:
        store.key_value_set(key, text)
    return _read(store, key, 0, timeout_s)


def agree(error: str | None) -> str | None:
    """The first error that any process has, None if none has one. Every process calls this, in one order of calls."""
    return next(filter(None, exchange(error or "")), None)


def beside(look: Callable[[], bool], every_s: float, name: str) -> None:
    """Calls `look` now and then in a thread, until it returns True, the service is gone or the process ends.

    A thread that were within the service's code when Python ends would abort the process: so it is stopped before.
    """
    done = threading.Event()

    def work() -> None:
        try:
            while not done.wait(every_s) and not look():
                pass
        except Exception:  # JAX's own, of which there is no class: the service is gone, and JAX aborts
            return

    thread = threading.Thread(target=work, daemon=True, name=name)
    thread.start()

    def stop() -> None:
        done.set()
        thread.join(10)

    atexit.register(stop)


def _read(store: Any, key: str, process: int, timeout_s: float) -> str:
    try:
        return store.blocking_key_value_get(key, int(timeout_s * 1000))
    except Exception as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise InputError(
            f"process {process} of {count()} was not heard from within {timeout_s:.0f} s: see what it says"
        ) from None
