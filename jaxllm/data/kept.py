"""What is slow to make and the same every time, kept as JSON in the cache by a hash of all that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.data.tokenizers import cache_root

T = TypeVar("T")

_BUILTIN = Path(__file__).with_name("builtin")


def kept(kind: str, key: Any, make: Callable[[], T], root: Path | None = None) -> T:
    """What `make` gives, read from the cache or else made and written there, if anything can be.

    kind: the folder in the cache. key: JSON that changes when what `make` gives does. root: the folder of the cache, by
    default `cache_root()`.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    path = (cache_root() if root is None else root) / kind / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    made = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
        partial.write_text(json.dumps(made), encoding="utf-8")
        partial.replace(path)
    return made


def corpus(make: Callable[[], T], root: Path | None = None) -> T:
    """An embedded corpus, which the sources of its generator and Python's library determine.

    Kept only if `make` is a function of data/builtin.
    """
    if make.__module__.rpartition(".")[0] != "jaxllm.data.builtin":
        return make()
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(_BUILTIN.iterdir()) if path.is_file()}
    library = []
    for folder, inner, names in os.walk(sysconfig.get_path("stdlib")):
        inner[:] = sorted(name for name in inner if name not in ("site-packages", "dist-packages", "__pycache__"))
        for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
            state = path.stat()
            library.append([str(path), state.st_size, state.st_mtime_ns])
    return kept("corpora", [make.__module__, make.__qualname__, sys.version, sources, library], make, root)
