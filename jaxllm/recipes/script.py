"""How every script starts and ends: flags, the allocator, the compile cache, other processes, a line for bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import importlib.util
import io
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import tyro

from jaxllm.types import InputError, RunError

T = TypeVar("T")

_ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""XLA:CPU allocates a step's temporaries anew, as one block. Small ones come from a heap that is kept; large ones are
mapped, in huge pages, so that few faults bring them in, and given back: in the heap, whatever small lands in the hole
that such a block leaves would make the next one grow the process by another."""

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Has XLA choose, on GPUs, only programs that give the same bits each time."""

APART = ("out", "config", "coordinator", "processes", "process_id")
"""Fields that another run's config.json does not pass on."""


def run(main: Callable[[T], object], config: type[T], argv: Sequence[str] | None = None) -> None:
    """Parses the flags of `config`, runs `main` on it, and exits: 0 done, 2 bad input (one line on stderr)."""
    with input_errors():
        parsed = parse(config, sys.argv[1:] if argv is None else argv)
        set_up(parsed)
        main(parsed)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns an InputError into one line on stderr and exit status 2; into 1 a RunError, a loss that is not finite and a
    full disk.

    Of several processes, one that ends otherwise than by reaching the end tells the others, and does not wait for them.
    Where nobody reads the output any more (`COMMAND --help | head -1`), ends with status 1 and no word.
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
    except (InputError, RunError, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            _tell_others(error, 1, traced=True)
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        _tell_others(error, status := 2 if isinstance(error, InputError) else 1)
        raise SystemExit(status) from None
    except SystemExit as stop:
        if stop.code:
            _tell_others(stop, stop.code if isinstance(stop.code, int) else 1)
        raise
    except BaseException as error:
        _tell_others(error, 1, traced=True)
        raise


def _tell_others(error: BaseException, status: int, traced: bool = False) -> None:
    """Of several processes, ends this one, after its traceback."""
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
    """Whether it may come of another process: of a collective that found no partner."""
    from jax.errors import JaxRuntimeError

    return error is not None and (isinstance(error, JaxRuntimeError) or _is_of_jax(error.__cause__))


def parse(config: type[T], argv: Sequence[str], prog: str | None = None) -> T:
    """The flags as a `config`; `--config FILE` starts from a run's config.json. Raises InputError."""
    argv = list(argv)
    default = _from_file(config, argv) if any(f.name == "config" for f in dataclasses.fields(config)) else None  # type: ignore[arg-type]
    heard = io.StringIO()
    parsed: Any
    unknown: list[str]
    try:
        with contextlib.redirect_stderr(heard):
            parsed, unknown = tyro.cli(config, args=argv, default=default, prog=prog, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"[╭╮╰╯│─]+", " ", heard.getvalue())
        text = " ".join(text.split()).removeprefix("Parsing error ")
        raise InputError(re.sub(r" For full helptext.*", "", text) + " (see --help)") from None
    if unknown:
        flags = [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(config)]  # type: ignore[arg-type]
        near = difflib.get_close_matches(unknown[0].replace("_", "-"), flags, 1)
        raise InputError(f"there is no flag {unknown[0]}{f'; did you mean {near[0]}?' if near else ''} (see --help)")
    return parsed


def _from_file(config: type[T], argv: list[str]) -> T | None:
    """The config that `--config` names as defaults."""
    path = next((argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "--config"), None)
    path = path or next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if path is None:
        return None
    from jaxllm.run.folder import read_config  # brings jax, which the other flags can do without

    _, values = read_config(Path(path))
    fields = {f.name for f in dataclasses.fields(config)} - {*APART}  # type: ignore[arg-type]
    if unknown := values.keys() - fields - {*APART}:
        raise InputError(f"--config {path}: this script has no {', '.join(sorted(unknown))}: is it another script's?")
    return config(**{k: tuple(x) if isinstance(x, list) else x for k, x in values.items() if k in fields})


def set_up(config: Any = None) -> None:
    """On CPU, starts the process anew once with allocator settings; keeps compiled programs between runs.

    config: of a script that trains. Then SIGTERM is heard from now on, locks are kept to the end, and if this is one of
    several processes, it joins them. Raises InputError.
    """
    if _on_cpu() and "JAXLLM_STARTED" not in os.environ and sys.platform == "linux":
        os.environ.update({name: x for name, x in _ALLOCATOR.items() if name not in os.environ}, JAXLLM_STARTED="1")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if getattr(config, "deterministic", False):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    import jax

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxllm" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if hasattr(config, "coordinator"):
        from jaxllm.distributed import cluster, processes
        from jaxllm.run import lock, preemption, watchdog
        from jaxllm.run.folder import versions

        preemption.listen_to_the_end()
        lock.keep_to_the_end()
        flags, cpu = (config.coordinator, config.processes, config.process_id), _on_cpu()
        place = cluster.find(os.environ, *flags, cpu=cpu)
        if place and processes.join(place, os.environ, versions(), cpu=cpu, connected=preemption.connect):
            watchdog.connect()
            processes.check_devices()


def _on_cpu() -> bool:
    """Whether JAX will run on CPU, found without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(importlib.util.find_spec(m) for m in ("libtpu", "jax_cuda13_plugin", "jax_cuda12_plugin"))
