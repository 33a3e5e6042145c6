"""Reading the embedded text corpus: source code and documentation of the running interpreter's standard library.

Every Python file is a document, and so is every topic of `help()`, the language reference in prose. About 9 MB of text
on every machine that runs Python; another version of Python has slightly different texts.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from jaxllm.types import InputError

HELD_OUT = 5
"""The percentage of documents in dev."""

# Tests are repetitive, encodings are tables, and the rest is not text of the library itself.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "lib2to3"}
_SKIPPED |= {"idlelib", "turtledemo", "pydoc_data"}


def documents(library: Path | None = None) -> dict[str, dict[str, str]]:
    """Splits `train` and `dev` of texts by name ("json/decoder.py", "help/lambda"), in the order of names.

    library: the folder of another standard library. A hash of its name puts a document into a split, so a newer Python
    moves none. Raises InputError where there is no library to read (in a frozen executable).
    """
    library = Path(sysconfig.get_path("stdlib")) if library is None else library
    splits: dict[str, dict[str, str]] = {"train": {}, "dev": {}}
    for name, text in sorted((*_sources(library), *_topics(library / "pydoc_data" / "topics.py"))):
        splits[split_of(name)][name] = text
    if not all(splits.values()):
        raise InputError(f"{library}: no standard library in Python files to train on; name another --dataset")
    return splits


def split_of(name: str) -> str:
    """The split that a document of this name belongs to: `train` or `dev`."""
    return "dev" if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100 < HELD_OUT else "train"


def _sources(library: Path) -> Iterator[tuple[str, str]]:
    for folder, inner, files in os.walk(library):
        inner[:] = [name for name in inner if name not in _SKIPPED]  # not walked into
        for path in (Path(folder) / file for file in files if file.endswith(".py")):
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):  # a few files declare another encoding
                continue
            # _sysconfigdata describes this machine.
            if text.strip() and not path.name.startswith("_sysconfigdata"):
                yield path.relative_to(library).as_posix(), text


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """The topics of `help()`, from a file that assigns one dictionary of strings, parsed without running it."""
    if not path.is_file():
        return
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for name, text in ast.literal_eval(statement.value).items():
                yield f"help/{name}", text
