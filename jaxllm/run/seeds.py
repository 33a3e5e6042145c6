"""The range of a seed, checked before it reaches numpy, which takes none below 0, and JAX, which takes 64 bits."""

from __future__ import annotations

from jaxllm.types import InputError

LARGEST = 2**63 - 1


def check_seed(seed: int, flag: str = "--seed") -> None:
    """Raises InputError, naming the flag, for a seed that numpy or JAX would not take."""
    if not 0 <= seed <= LARGEST:
        raise InputError(f"{flag} {seed}: give a whole number from 0 to {LARGEST}")
