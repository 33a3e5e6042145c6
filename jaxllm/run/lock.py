"""A lock file that lets one run at a time use a folder, and names the process that holds it.

The kernel frees the lock of a process of this host when it ends. The lock of another host, which the kernel here may
not know, counts as abandoned when it has not been touched for a while: that, and the name of the holder in the error,
are why this is not the package `filelock`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from jaxllm.distributed import messages
from jaxllm.types import InputError

LOCK = "lock"
TOUCH_S = 10.0
"""Seconds after which a holder touches its lock again."""
ABANDONED_S = 35.0
"""A lock of another host that is older than this is taken over."""


@dataclasses.dataclass
class _Held:
    file: int
    users: int
    done: threading.Event


_held: dict[Path, _Held] = {}
_to_the_end = False


def keep_to_the_end() -> None:
    """Holds all locks until the process ends, for a script that still writes into the folder after `fit`."""
    global _to_the_end
    _to_the_end = True


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Creates the folder and holds its lock inside the `with` block; nested calls in one process are fine.

    All processes call this; process 0 takes the lock. Raises InputError that names the host and the process which holds
    the folder, or says why it cannot be written.
    """
    error = None
    path = folder.absolute() / LOCK
    if messages.index() == 0:
        try:
            _take(path)
        except InputError as refused:
            error = str(refused)
    if error := messages.agree(error):
        raise InputError(error)
    try:
        yield
    finally:
        if messages.index() == 0 and not _to_the_end:
            _release(path)


def release_all() -> None:
    """Releases every lock, for a process that is about to end."""
    for path in list(_held):
        _held[path].users = 1
        _release(path)


def _take(path: Path) -> None:
    if held := _held.get(path):
        held.users += 1
        return
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"--out {path.parent}: cannot write there ({error.strerror}); give another folder"
            ) from None
        try:
            free = _flock(file)
            holder = _read(file)
            if not free or (holder and not _abandoned(path, holder)):
                raise InputError(
                    f"{path.parent} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}: "
                    f"wait for it, or give another --out (if that process is gone, remove {path})"
                )
            if _same(file, path):  # otherwise its holder has removed it in between
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(_who()).encode(), 0)
    _held[path] = held = _Held(file, 1, threading.Event())
    threading.Thread(target=_touch, args=(file, held.done), daemon=True, name="lock").start()


def _release(path: Path) -> None:
    held = _held[path]
    held.users -= 1
    if held.users == 0:
        del _held[path]
        held.done.set()
        if _same(held.file, path):
            path.unlink()
        os.close(held.file)


def _flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no such locks
        pass
    return True


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read(file: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(file, 1 << 16, 0))
    except ValueError:  # its writer died
        return {}
    return found if isinstance(found, dict) else {}


def _who() -> dict[str, object]:
    job = {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if name in os.environ}
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), **job}


def _started(pid: int) -> str | None:
    """When a process of this host started, to tell apart two processes that had the same number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return None


def _abandoned(path: Path, holder: dict[str, object]) -> bool:
    """Whether the process that holds a lock has ended, where the kernel did not say so."""
    here = _who()
    if holder.get("host") == here["host"] and isinstance(pid := holder.get("pid"), int):
        return _started(pid) is None or _started(pid) != holder.get("started")
    if "SLURM_JOB_ID" in here and here["SLURM_JOB_ID"] == holder.get("SLURM_JOB_ID"):
        return here.get("SLURM_RESTART_COUNT") != holder.get("SLURM_RESTART_COUNT")
    first = path.stat().st_mtime
    if _age(path) < ABANDONED_S:
        print(
            f"{path} is of {holder.get('host')}: looking for {ABANDONED_S:.0f} s whether it is alive", file=sys.stderr
        )
    while _age(path) < ABANDONED_S:
        time.sleep(min(1.0, ABANDONED_S / 10))
        if path.stat().st_mtime != first:
            return False
    return True


def _age(path: Path) -> float:
    """Seconds since the lock was touched, by the clock of the file system."""
    probe = path.with_name(f"{LOCK}.{socket.gethostname()}.{os.getpid()}")
    probe.write_text("")
    now = probe.stat().st_mtime
    probe.unlink()
    return now - path.stat().st_mtime


def _touch(file: int, done: threading.Event) -> None:
    while not done.wait(TOUCH_S):
        with contextlib.suppress(OSError):
            os.utime(file)
