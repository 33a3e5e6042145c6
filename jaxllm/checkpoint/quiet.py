"""Suppresses the tracebacks that TensorStore prints after a failed write, beside the one line that gives the reason.

When a write fails, Orbax closes its event loop, and each write that ends after it reports that the loop is closed.
"""

from __future__ import annotations

import sys
from typing import Any

_before: Any = None


def quieten() -> None:
    """Installs a hook for exceptions that nothing catches; it passes on all but these."""
    global _before
    if sys.unraisablehook is not _hook:
        _before, sys.unraisablehook = sys.unraisablehook, _hook


def _hook(found: Any) -> None:
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        _before(found)
