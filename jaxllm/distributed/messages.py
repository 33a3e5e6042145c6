"""Short texts that the processes of a run exchange through JAX's coordination service, without using devices.

The service works from when `jax.distributed.initialize` returns, before devices are started; then call `connected`. An
earlier call would hang, or end the process as if the service were broken. With a single process there is no service,
and each function returns its argument.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from collections.abc import Callable
from typing import Any

from jax._src import distributed  # the store of the service has no public interface

from jaxllm.types import InputError

TIMEOUT_S = 300.0
_calls = itertools.count()
_connected = threading.Event()


def index() -> int:
    """The index of this process. Starts no device, as `jax.process_index` would."""
    return distributed.global_state.process_id or 0


def count() -> int:
    """The number of processes."""
    return distributed.global_state.num_processes or 1


def connected() -> None:
    """Declares the processes connected: from now on there is a store."""
    _connected.set()


def client() -> Any | None:
    """The key-value store of the service, None with a single process or before it is connected."""
    return distributed.global_state.client if _connected.is_set() else None


def exchange(text: str, timeout_s: float = TIMEOUT_S, processes: int = 0) -> list[str]:
    """The texts of all processes (or of the first `processes`), by index. All call this, in the same order of calls.

    Raises InputError that names the first process whose text does not come in time.
    """
    store = client()
    if store is None:
        return [text]
    key = f"jaxllm/exchange/{next(_calls)}"
    store.key_value_set(f"{key}/{index()}", text)
    return [_read(store, f"{key}/{i}", i, timeout_s) for i in range(processes or count())]


def broadcast(text: str, timeout_s: float = TIMEOUT_S) -> str:
    """The text of process 0. All processes call this, in the same order of calls."""
    return exchange(text, timeout_s, processes=1)[0]


def agree(error: str | None) -> str | None:
    """The first error of any process, None if there is none. All processes call this, in the same order of calls."""
    return next(filter(None, exchange(error or "")), None)


def beside(look: Callable[[], bool], every_s: float, name: str) -> None:
    """Calls `look` every few seconds in a thread, until it returns True, the service is gone or the process ends.

    A thread that is inside the service's code when Python ends would abort the process, so it is stopped before.
    """
    done = threading.Event()

    def work() -> None:
        try:
            while not done.wait(every_s) and not look():
                pass
        except Exception:  # JAX has no class for it: the service is gone, and JAX aborts
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
