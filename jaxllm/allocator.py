"""How a program begins: with Python's garbage collector waiting, and glibc's allocator as XLA:CPU wants it.

The allocator reads its settings as a process starts: a program restarts for them.
"""

from __future__ import annotations

import gc
import os
import sys

from jaxllm.accelerators import on_cpu

_SETTINGS = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""XLA:CPU allocates each step's temporaries anew, as one block. Small blocks come from a heap that is kept. Large ones
are mapped in huge pages, so that few page faults bring them in, and are unmapped afterwards: were they in the heap, a
small allocation in the hole that one leaves would make the heap grow by another such block."""


def restart(name: str = "") -> None:
    """On a CPU under Linux, starts the program anew with these settings, unless that was done.

    name: `__name__` of a script, which calls this first of all; where it is imported, nothing happens. What it imports
    next takes seconds, and would be imported twice. The garbage collector, which would look at all of that many times
    and free nothing, waits until `resume_gc`.
    """
    if name == "__main__":
        gc.disable()
    if name in ("", "__main__") and on_cpu() and "JAXLLM_STARTED" not in os.environ and sys.platform == "linux":
        os.environ.update({name: x for name, x in _SETTINGS.items() if name not in os.environ}, JAXLLM_STARTED="1")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def resume_gc() -> None:
    """If the garbage collector waits, it goes on with what is made from now on: what was imported stays."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
