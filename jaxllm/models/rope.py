"""Rotary frequencies, and their scaling for texts longer than those first trained on; in numpy, while tracing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How rotary frequencies are scaled for texts longer than those first trained on. Raises InputError."""

    kind: str = "default"
    """default (unchanged), linear (Chen et al. 2023), llama3 (Llama 3.1) or yarn (Peng et al. 2023)."""
    factor: float = 1.0
    """How many times longer."""
    original_positions: int = 0
    """llama3 and yarn: the longest text first trained on, in tokens."""
    slow: float = 1.0
    """llama3 and yarn: frequencies with fewer turns than this over the original length are divided by the factor."""
    fast: float = 4.0
    """llama3 and yarn: those with more turns than this stay; between the two they are interpolated."""
    truncate: bool = True
    """yarn: the bounds of the interpolation are rounded to whole features."""
    amplitude: float = 1.0
    """Factor on the rotated queries and keys (yarn)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"rope scaling kind={self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.kind != "default" and self.factor <= 0:
            raise InputError(f"rope scaling factor={self.factor}: must be above 0")
        if self.kind in ("llama3", "yarn") and self.original_positions < 1:
            raise InputError(f"rope scaling original_positions={self.original_positions}: {self.kind} needs it")


KINDS = ("default", "linear", "llama3", "yarn")

UNSCALED = Scaling()


def frequencies(head_width: int, base: float, scaling: Scaling) -> np.ndarray:
    """Radians per position of each pair of features, float32 [H / 2] (Su et al. 2021, section 3.2.2)."""
    half = head_width // 2
    plain = (1.0 / np.power(np.float32(base), np.arange(half, dtype=np.float32) / np.float32(half))).astype(np.float32)
    if scaling.kind == "default":
        return plain
    slowed = plain / np.float32(scaling.factor)
    if scaling.kind == "linear":
        return slowed
    turns = scaling.original_positions * plain / (2 * math.pi)
    if scaling.kind == "llama3":
        keep = (turns - scaling.slow) / (scaling.fast - scaling.slow)
    else:
        low, high = (_feature(turns, base, head_width, scaling) for turns in (scaling.fast, scaling.slow))
        low, high = max(low, 0), min(high, head_width - 1)
        keep = 1 - (np.arange(half, dtype=np.float32) - low) / max(high - low, 1e-3)
    keep = np.clip(keep, 0, 1).astype(np.float32)
    return keep * plain + (1 - keep) * slowed


def yarn_amplitude(factor: float, scale: float = 1.0) -> float:
    """Yarn's factor on queries and keys (Peng et al. 2023, equation 22), its logarithm times `scale`."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _feature(turns: float, base: float, head_width: int, scaling: Scaling) -> float:
    """The index of the feature pair with so many turns over the original length."""
    place = head_width * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(base))
    if not scaling.truncate:
        return place
    return math.floor(place) if turns == scaling.fast else math.ceil(place)
