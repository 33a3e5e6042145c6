"""A line of the report card, and how far numbers may be apart that must be equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

SAME = 2e-5
"""Largest difference between values that must be equal in float32, relative to the largest of them."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the card."""

    check: str
    passed: bool
    found: str
    wanted: str


def gap(found: Any, expected: Any) -> float:
    """The largest difference of loss and gradients, relative to the largest of each."""
    gaps = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        gaps.append(float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-6))
    return max(gaps)
