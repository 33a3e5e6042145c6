"""How every script starts and ends: it parses flags, sets the process up for JAX, runs, and exits with a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jaxllm import planning
from jaxllm.accelerators import idle_plugins, on_cpu, without_notices
from jaxllm.allocator import restart, resume_gc
from jaxllm.data.tokenizers import cache_root
from jaxllm.recipes.errors import input_errors
from jaxllm.recipes.parse import parse

__all__ = ["input_errors", "parse", "run", "set_up"]

T = TypeVar("T")

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Makes XLA use only GPU kernels that give the same bits every time."""


def run(main: Callable[[T], object], config: type[T], argv: Sequence[str] | None = None) -> None:
    """Parses the flags of `config` and runs `main` on them; `input_errors` says what it exits with."""
    with input_errors():
        parsed = parse(config, sys.argv[1:] if argv is None else argv)
        if (plan := planning.current()) is not None:
            from jaxllm.recipes.standin import without_files

            resume_gc()
            main(without_files(parsed, plan))
        else:
            set_up(parsed)
            main(parsed)


def set_up(config: Any = None) -> None:
    """On CPU, restarts the process unless it was (`allocator.restart`); has JAX keep compiled programs between runs.

    config: the flags of a script that trains. From then on SIGTERM is noted instead of ending the process, locks are
    held until it ends, and if this is one of several processes, it joins them. Raises InputError.
    """
    restart()
    resume_gc()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if getattr(config, "deterministic", False):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    import jax

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # many small programs come before the first step
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if hasattr(config, "coordinator"):
        from jaxllm.distributed import cluster, processes
        from jaxllm.run import lock, preemption, watchdog
        from jaxllm.run.folder import versions

        preemption.listen_to_the_end()
        lock.keep_to_the_end()
        flags, cpu = (config.coordinator, config.processes, config.process_id), on_cpu()
        place = cluster.find(os.environ, *flags, cpu=cpu)
        if place and processes.join(place, os.environ, versions(), cpu=cpu, connected=preemption.connect):
            watchdog.connect()
            processes.check_devices()
    if idle_plugins():  # of the extra `plan`, which would say that they find no device
        jax.config.update("jax_platforms", "cpu")
        with without_notices():
            jax.devices()
