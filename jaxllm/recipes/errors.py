"""What a script prints and which status it exits with when something raises."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import traceback
from collections.abc import Iterator
from typing import IO, NoReturn

from jaxllm.types import InputError, RunError, UserCodeError


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns what is raised within into an exit status, with a line on stderr that begins with "error: ".

    2: an InputError; of a UserCodeError the traceback of its cause follows. 1: a RunError, a loss that is not finite, a
    full disk; and an error in a file of the user's, such as the one of `--loss FILE.py:FUNCTION`, whose line says where
    in that file, with the traceback below it. Anything else is raised on: a bug, with its traceback. Of several
    processes, one that does not reach the end tells the others and does not wait for them. If nobody reads the output
    any more, as in `COMMAND --help | head -1`, the status is 1 and nothing is said.
    """
    with _closed_pipe(), _reported_errors():
        yield


@contextlib.contextmanager
def _closed_pipe() -> Iterator[None]:
    """Ends the process without a traceback where the reader of its standard output has gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what is still held would otherwise fail when Python ends, outside of this
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        raise SystemExit(1) from None


def _nobody_reads(output: IO[str]) -> bool:
    """Whether this is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextlib.contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except UserCodeError as error:
        _exit(2, error.__cause__ or error, " ".join(str(error).split()), traced=True)
    except (InputError, RunError) as error:
        _exit(2 if isinstance(error, InputError) else 1, error, " ".join(str(error).split()))
    except SystemExit as stop:
        if stop.code:
            _tell_others(stop, stop.code if isinstance(stop.code, int) else 1)
        raise
    except Exception as error:
        if where := _in_users_file(error):
            summary = traceback.format_exception_only(error)[0].strip().splitlines()[0]
            _exit(1, error, f"{where}: {summary}", traced=True)
        if isinstance(error, FloatingPointError) or getattr(error, "errno", None) == errno.ENOSPC:
            _exit(1, error, " ".join(str(error).split()))
        _tell_others(error, 1, traced=True)
        raise
    except BaseException as error:
        _tell_others(error, 1, traced=True)
        raise


def _exit(status: int, error: BaseException, line: str, traced: bool = False) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    if traced:
        traceback.print_exception(error)
    _tell_others(error, status)
    raise SystemExit(status) from None


def _in_users_file(error: BaseException) -> str | None:
    """Where in a file of the user's it was raised, if it was."""
    if "jaxllm.losses" not in sys.modules:
        return None
    from jaxllm.losses import own_files

    return own_files.place(error)


def _tell_others(error: BaseException, status: int, traced: bool = False) -> None:
    """If there are other processes, tells them that this one fails, and ends it at once; traced: after a traceback."""
    if "jax" not in sys.modules:
        return
    from jaxllm.distributed import messages
    from jaxllm.run import preemption, watchdog

    if messages.count() == 1:
        return
    if traced:
        traceback.print_exc()
    if isinstance(error, InputError | RunError):
        why = " ".join(str(error).split())
    else:
        why = f"exit status {status}" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    if _is_of_jax(error) and (lost := watchdog.lost()):
        print(f"error: {lost}", file=sys.stderr)
        why = lost
    if status != preemption.STATUS:
        watchdog.tell(why, status)
    preemption.leave(status)


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether JAX raised it, as it does in a collective whose partner is gone."""
    from jax.errors import JaxRuntimeError

    return error is not None and (isinstance(error, JaxRuntimeError) or _is_of_jax(error.__cause__))
