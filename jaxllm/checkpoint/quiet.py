"""Tracebacks beside the one line that says why a checkpoint could not be written.

When one write fails Orbax closes its event loop, and TensorStore prints a traceback for each write that ends after it.
"""

from __future__ import annotations

import sys
from typing import Any

_before: Any = None


def quieten() -> None:
    """From now on they are not printed; whatever else nobody catches is."""
    global _before
    if sys.unraisablehook is not _hook:
        _before, sys.unraisablehook = sys.unraisablehook, _hook


def _hook(found: Any) -> None:
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        _before(found)
