"""Which accelerators this machine has, found without starting JAX, and quiet where a plugin of JAX has none to drive.

The extra `plan` installs libtpu and the CUDA plugin for their compilers, on machines with no such device.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

CUDA = ("jax_cuda13_plugin", "jax_cuda12_plugin")
_NOTICES = ("Could not find cuda drivers", "All log messages before absl::InitializeLog()")


def on_cpu() -> bool:
    """Whether JAX will run on CPU: it was told to, or no plugin finds a device of its kind here."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    tpu = _installed("libtpu") and _exists("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
    cuda = _installed(*CUDA) and _exists("/dev/nvidia[0-9]*", "/dev/dxg")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not tpu and (hidden or not cuda)


def idle_plugins() -> bool:
    """Whether a plugin for NVIDIA's GPUs or TPUs is installed, no other is, and JAX will run on CPU."""
    others = _installed("jax_rocm7_plugin", "jax_rocm60_plugin", "jax_metal", "jax_plugins.intel_gpu")
    return on_cpu() and not others and _installed("libtpu", *CUDA)


def _installed(*modules: str) -> bool:
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(module):
                return True
    return False


def _exists(*patterns: str) -> bool:
    """Whether there is a device file; /dev/dxg is the GPU of Windows' subsystem for Linux."""
    return any(glob.glob(pattern) for pattern in patterns)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Leaves out of what is written to stderr that there are no CUDA drivers, which the plugin says when it is loaded.

    It says so by itself, whatever Python's logging and XLA's environment variables are set to.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError):  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            heard.seek(0)
            lines = heard.read().decode(errors="replace").splitlines(keepends=True)
            os.write(2, "".join(x for x in lines if not any(notice in x for notice in _NOTICES)).encode())


def import_jax() -> None:
    """Imports JAX now, without notices, where a CUDA plugin has no device and would say so at the first import."""
    if "jax" not in sys.modules and _installed(*CUDA) and on_cpu():
        with without_notices():
            import jax  # noqa: F401
