"""The user's files that losses and rewards were loaded from: their text, and where in them an error was raised."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterator
from pathlib import Path

from jaxllm.losses.arguments import weighted
from jaxllm.types import InputError

FILES: set[str] = set()
"""Absolute paths; `resolve` adds the file of each FILE.py:FUNCTION and PACKAGE.MODULE:FUNCTION."""


def texts(spec: str, flag: str = "--loss") -> dict[str, str]:
    """The text of each file that the functions of a flag such as `--loss` are in, by the name that it gives the file.

    "my_losses.py:margin:0.5+sft" has one, my_losses.py; PACKAGE.MODULE:FUNCTION is a file too. Raises InputError for a
    file that is no text. A function whose file is missing is for `resolve` to refuse.
    """
    found = {}
    for name in _names(spec):
        path = Path(name) if name.endswith(".py") else _module(name)
        if path is not None and path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{flag} {spec}: {path} is not UTF-8; convert the file") from None
    return found


def _names(spec: str) -> Iterator[str]:
    """The part before the function's name of each part of a mixture that is FILE.py:FUNCTION or MODULE:FUNCTION."""
    for part in spec.split("+"):
        if source := weighted(part)[0].rpartition(":")[0]:
            yield source


def _module(name: str) -> Path | None:
    """The file of a module, None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def place(error: BaseException) -> str | None:
    """FILE:LINE in FUNCTION, for the innermost frame of an error in one of FILES; None if it passed through none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in FILES]
    if not frames:
        return None
    path, here = Path(frames[-1].filename), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{frames[-1].lineno} in {frames[-1].name}"
