"""How every script starts and ends: flags, the allocator, the compile cache, and one line for bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from jaxllm.types import InputError

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


def run(main: Callable[[T], object], config: type[T], argv: Sequence[str] | None = None) -> None:
    """Parses the flags of `config`, runs `main` on it, and exits: 0 done, 2 bad input (one line on stderr)."""
    with input_errors():
        parsed = parse(config, sys.argv[1:] if argv is None else argv)
        set_up()
        main(parsed)


@contextlib.contextmanager
def input_errors() -> Any:
    """Makes an InputError one line on stderr and exit status 2, and a loss that is not finite one and status 1."""
    try:
        yield
    except (InputError, FloatingPointError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None


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
    from jaxllm.train.run import read_config  # brings jax, which the other flags can do without

    _, values = read_config(Path(path))
    fields = {f.name for f in dataclasses.fields(config)} - {"out", "config"}  # type: ignore[arg-type]
    if unknown := values.keys() - fields - {"out", "config"}:
        raise InputError(f"--config {path}: this script has no {', '.join(sorted(unknown))}: is it another script's?")
    return config(**{k: tuple(x) if isinstance(x, list) else x for k, x in values.items() if k in fields})


def set_up() -> None:
    """On CPU, starts the process anew once with allocator settings; keeps compiled programs between runs."""
    if _on_cpu() and "JAXLLM_STARTED" not in os.environ and sys.platform == "linux":
        os.environ.update({name: x for name, x in _ALLOCATOR.items() if name not in os.environ}, JAXLLM_STARTED="1")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import jax

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxllm" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _on_cpu() -> bool:
    """Whether JAX will run on CPU, found without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(importlib.util.find_spec(m) for m in ("libtpu", "jax_cuda13_plugin", "jax_cuda12_plugin"))
