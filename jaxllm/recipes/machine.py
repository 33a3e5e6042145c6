"""What a benchmark ran on: the CPU with its instruction sets, the versions, how busy the machine was. Starts no JAX."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.types import InputError

INSTRUCTIONS = (
    "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
"""Instruction sets that matrix products use, by their names in /proc/cpuinfo."""

PACKAGES = ("jaxllm", "jax", "jaxlib", "flax", "optax", "torch", "transformers", "trl", "accelerate", "numpy")


def describe_cpu(cpuinfo: str | None = None) -> dict[str, Any]:
    """Its model, family, cores that this process may use, and instruction sets. cpuinfo: the text of /proc/cpuinfo."""
    if cpuinfo is None:
        cpuinfo = ""
        with contextlib.suppress(OSError):
            cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "family": " ".join(f"{name} {fields[name]}" for name in ("cpu family", "model") if name in fields),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed of those that a benchmark compares."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_machine() -> dict[str, Any]:
    """CPU, system, versions, and the load (processes that wanted a core, over the last minute)."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": describe_cpu(), "system": platform.platform(), "versions": versions(), "load": load}


def versions_at(python: Path) -> dict[str, str]:
    """`versions` of another interpreter's environment, which needs no JAX. Raises InputError where there is none."""
    program = (
        "import importlib.metadata, json, platform; "
        "found = {one.name: one.version for one in importlib.metadata.distributions()}; "
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    try:
        found = json.loads(subprocess.check_output([python, "-c", program], text=True, stderr=subprocess.DEVNULL))
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(f"{python} is no interpreter of Python: {e}") from e
    return {name: found[name] for name in ("python", *PACKAGES) if name in found}


def missing(packages: tuple[str, ...], among: Mapping[str, str] | None = None) -> list[str]:
    """Those of these, of PACKAGES, that are not installed. among: `versions`, by default those of this environment."""
    return [name for name in packages if name not in (versions() if among is None else among)]
