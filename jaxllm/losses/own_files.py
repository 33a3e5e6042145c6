"""The user's files that losses were loaded from, and where in them an error was raised."""

from __future__ import annotations

import traceback
from pathlib import Path

FILES: set[str] = set()
"""Absolute paths; `resolve` adds the file of each FILE.py:FUNCTION and PACKAGE.MODULE:FUNCTION."""


def place(error: BaseException) -> str | None:
    """FILE:LINE in FUNCTION, for the innermost frame of an error in one of FILES; None if it passed through none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in FILES]
    if not frames:
        return None
    path, here = Path(frames[-1].filename), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{frames[-1].lineno} in {frames[-1].name}"
