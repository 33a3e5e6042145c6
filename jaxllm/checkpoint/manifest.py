"""Hashes of a checkpoint's files, stored beside them, because Orbax does not notice a flipped bit when it restores.

Process 0 writes the manifest in the background once the checkpoint is complete. A checkpoint without one is complete
too, since Orbax renames it into place when every process has written its part; the run ended before the manifest.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator

from etils import epath

MANIFEST = "manifest.json"
THREADS = 8
"""How many files are read at the same time."""


def write(folder: epath.Path) -> None:
    """Hashes every file below `folder`, and writes the manifest whole or not at all."""
    paths = sorted(_files(folder))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        files = dict(zip(paths, pool.map(lambda path: digest(folder / path), paths), strict=True))
    partial = folder / (MANIFEST + ".tmp")
    partial.write_text(json.dumps({"files": files}))
    partial.replace(folder / MANIFEST)


def check(folder: epath.Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with the files below `folder`, None if nothing is. A checkpoint without a manifest passes.

    Checks every `parts`-th file from number `part` on, so that several processes can share the work.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        wanted: dict[str, tuple[int, str]] = json.loads((folder / MANIFEST).read_text())["files"]
        named = sorted(wanted.items())[part::parts]
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            problems = list(pool.map(lambda item: _problem(folder, item[0], *item[1]), named))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return next(filter(None, problems), None)


def digest(path: epath.Path) -> tuple[int, str]:
    """The size in bytes and the SHA-256 of a file."""
    size, state = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            size += len(chunk)
            state.update(chunk)
    return size, state.hexdigest()


def _problem(folder: epath.Path, path: str, size: int, wanted: str) -> str | None:
    try:
        found, hexadecimal = digest(folder / path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or type(error).__name__})"
    if found != size:
        return f"{path} has {found} bytes of {size}"
    return None if hexadecimal == wanted else f"{path} is not what was written"


def _files(folder: epath.Path, below: str = "") -> Iterator[str]:
    for path in folder.iterdir():
        name = below + path.name
        if path.is_dir():
            yield from _files(path, name + "/")
        elif not name.startswith(MANIFEST):
            yield name
