"""The hardware that a plan is for, from text like v5e:16x16*2, h100:1x4x8 or cpu:256: devices that are not here."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from jaxllm.accelerators import without_notices
from jaxllm.distributed.chips import CHIPS, Chip, gpu_target
from jaxllm.types import InputError, nearest

LOCK = Path("/tmp/libtpu_lockfile")
"""Which libtpu holds while a process uses it, for compiling too."""

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "2", "TPU_MIN_LOG_LEVEL": "2", "TPU_STDERR_LOG_LEVEL": "2",
}  # fmt: skip
"""What keeps libtpu from asking Google's metadata server, and both compilers from saying that there is no device."""

SIZES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
}
"""Common slices of TPUs by dimensions of their torus, to name when another is not known."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Parsed text of --topology."""

    text: str
    platform: str
    """tpu, gpu or cpu."""
    chip: Chip | None
    """None for a CPU."""
    name: str
    sizes: tuple[int, ...]
    """Of a slice of TPUs; slices x hosts x GPUs; or the number of CPU devices."""
    slices: int

    @property
    def devices(self) -> int:
        """Chips in all."""
        return math.prod(self.sizes) * (self.slices if self.platform == "tpu" else 1)


def parse_target(text: str) -> Target:
    """Raises InputError that names the nearest."""
    found = re.fullmatch(r"([a-z]\w*):(\d+(?:x\d+)*)(?:\*(\d+))?", text.strip().lower())
    example = "such as v5e:16x16, v5p:4x4x8, v5e:16x16*2, h100:1x4x8 or cpu:8"
    if not found:
        raise InputError(f"--topology {text}: give CHIP:SIZES, {example}")
    name, sizes, slices = found[1].replace("tpu", "v"), tuple(map(int, found[2].split("x"))), int(found[3] or 1)
    if name != "cpu" and name not in CHIPS:
        raise InputError(f"--topology {text}: {nearest(name, [*CHIPS, 'cpu'])}, {example}")
    chip = CHIPS.get(name)
    platform = "cpu" if chip is None else "gpu" if chip.target else "tpu"
    wanted = {"cpu": 1, "gpu": 3, "tpu": chip.dims if chip else 0}[platform]
    if len(sizes) != wanted or 0 in sizes or (slices > 1 and platform != "tpu") or slices < 1:
        what = {"cpu": "cpu:DEVICES", "gpu": f"{name}:SLICESxHOSTSxGPUS, such as {name}:1x4x8"}.get(platform)
        what = what or f"{name}:{'x'.join('XYZ'[:wanted])}, such as {name}:{_near(sizes, wanted)}"
        raise InputError(f"--topology {text}: give {what}")
    return Target(text, platform, chip, name, sizes, slices)


def _near(sizes: Sequence[int], dims: int) -> str:
    """The common slice with the number of chips that is nearest."""
    chips = math.prod(sizes)
    return min(SIZES[dims], key=lambda size: abs(math.log(math.prod(map(int, size.split("x"))) / max(chips, 1))))


def prepare(target: Target) -> None:
    """Sets the process up to compile for a target; JAX must not have looked for devices yet. Raises InputError."""
    if target.platform != "cpu":
        module, package = (
            ("libtpu", "libtpu") if target.platform == "tpu" else ("jax_plugins.xla_cuda12", "jax-cuda12-plugin")
        )
        if not _installed(module) and not (target.platform == "gpu" and _installed("jax_plugins.xla_cuda13")):
            raise InputError(
                f"--topology {target.text}: {package} is not installed, whose compiler makes the plan; "
                f"pip install 'jaxllm[plan]', or as a stand-in, whose memory is that of a program for CPUs, use "
                f"--topology cpu:{target.devices}"
            )
    if target.platform == "tpu":
        check_lock()
    for name, x in ENVIRONMENT.items():
        os.environ.setdefault(name, x)
    flags = {"gpu": "--xla_gpu_autotune_level=0", "cpu": ""}.get(target.platform, "")
    if target.platform == "cpu" and not _started():
        kept = re.sub(r"--xla_force_host_platform_device_count=\S+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = kept.strip()
        flags = f"--xla_force_host_platform_device_count={target.devices}"
    if flags and flags not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    if not _started():
        jax.config.update("jax_platforms", "cpu")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _started() -> bool:
    """Whether JAX has looked for devices already."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def devices_of(target: Target) -> list[Any]:
    """The devices of a target. Raises InputError."""
    if target.platform == "cpu":
        if len(jax.devices("cpu")) < target.devices:
            raise InputError(f"--topology {target.text}: JAX has started with {len(jax.devices('cpu'))} CPU devices")
        return jax.devices("cpu")[: target.devices]
    from jax.experimental import topologies

    sizes = "x".join(map(str, target.sizes))
    if target.platform == "gpu":
        assert target.chip is not None
        with without_notices():
            described = topologies.get_topology_desc(
                target.name, platform="cuda", target_config=gpu_target(target.chip), topology=sizes
            )
        return list(described.devices)
    check_lock()
    name = f"{'tpu7x' if target.name == 'v7x' else target.name}:{sizes}"
    more = {"num_slices": target.slices} if target.slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(topology_name=name, platform="tpu", **more).devices)
    except Exception as error:  # of libtpu, which raises several kinds
        reason = " ".join(str(error).split())
        if "in use" in reason or "lockfile" in reason:
            raise InputError(_in_use()) from None
        near = _near(target.sizes, len(target.sizes))
        raise InputError(f"--topology {target.text}: libtpu does not know it; the nearest is {target.name}:{near} "
                         f"({reason[:120]})") from None  # fmt: skip


def check_lock() -> None:
    """Raises InputError where another process holds libtpu, which would end this one."""
    import fcntl

    try:
        with LOCK.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        if _holder() != os.getpid():
            raise InputError(_in_use()) from None
    except OSError:
        return


def _holder() -> int:
    """The process that holds the lock; 0 where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = str(LOCK.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[5].split(":")[-1] == inode:
                return int(fields[4])
    return 0


def _in_use() -> str:
    pid = _holder()
    who = f"process {pid}" if pid else "another process"
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        who += f" ({' '.join(words.split())[:80]})"
    return f"libtpu is in use by {who}, and compiles for one at a time: wait for it ({LOCK})"


@contextlib.contextmanager
def compiling(target: Target) -> Iterator[None]:
    """What tracing and compiling for a target need: no cache of programs; for a GPU its capability and cuDNN's version.

    No cuDNN is there to be asked; its kernels are not called while compiling.
    """
    cache = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.config.update, "jax_enable_compilation_cache", cache)
        if target.platform == "gpu":
            assert target.chip is not None
            major, where = target.chip.target["major"], "jax._src.cudnn.fused_attention_stablehlo"
            stack.enter_context(mock.patch(f"{where}.check_cudnn_version", return_value=91000))
            able = lambda capability: float(capability) <= major  # noqa: E731
            stack.enter_context(mock.patch(f"{where}.check_compute_capability", able))
        yield
