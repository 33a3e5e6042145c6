"""Learning rates over a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from jaxllm.types import InputError, nearest

Schedule = Callable[[Any], Any]
"""Number of updates made -> learning rate."""

SCHEDULES: dict[str, Callable[[float, int, float], Schedule]] = {
    "constant": lambda peak, steps, floor: optax.constant_schedule(peak),
    "linear": lambda peak, steps, floor: optax.linear_schedule(peak, floor * peak, steps),
    "cosine": lambda peak, steps, floor: optax.cosine_decay_schedule(peak, max(1, steps), floor),
    "wsd": lambda peak, steps, floor: optax.join_schedules(
        [optax.constant_schedule(peak), optax.linear_schedule(peak, floor * peak, steps - int(0.8 * steps))],
        [int(0.8 * steps)],
    ),
}
"""What follows the warm-up, over the steps left: (peak, steps, share of the peak at the end) -> schedule.

wsd holds the peak for four fifths of the steps and then decays linearly (Hu et al. 2024, MiniCPM)."""


def schedule(name: str, *, peak: float, steps: int, warmup: float, floor: float) -> Schedule:
    """Linear warm-up, then the schedule of this name, over so many steps.

    warmup: steps, or below 1 a share of all. floor: share of the peak at the end. Raises InputError for an unknown
    name, and a warm-up longer than the run.
    """
    if name not in SCHEDULES:
        raise InputError(f"--schedule {name}: {nearest(name, SCHEDULES)}")
    rising = int(warmup * steps) if warmup < 1 else int(warmup)
    if rising > steps:
        raise InputError(f"--warmup {rising} is longer than the run of {steps} steps")
    after = SCHEDULES[name](peak, steps - rising, floor)
    if not rising:
        return after
    # The first update already moves: it uses 1/warmup of the peak, not 0.
    rise = lambda count: peak * (count + 1) / rising  # noqa: E731
    return optax.join_schedules([rise, after], [rising])
