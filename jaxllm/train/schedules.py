"""Learning-rate schedules by name, with linear warm-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from jaxllm.types import InputError, check_one_of

Schedule = Callable[[Any], Any]
"""(number of updates made) -> learning rate, traceable."""

SCHEDULES: dict[str, Callable[[float, int, float], Schedule]] = {
    "constant": lambda peak, steps, floor: optax.constant_schedule(peak),
    "linear": lambda peak, steps, floor: optax.linear_schedule(peak, floor * peak, steps),
    "cosine": lambda peak, steps, floor: optax.cosine_decay_schedule(peak, max(1, steps), floor),
    "wsd": lambda peak, steps, floor: optax.join_schedules(
        [optax.constant_schedule(peak), optax.linear_schedule(peak, floor * peak, steps - int(0.8 * steps))],
        [int(0.8 * steps)],
    ),
}
"""(peak, steps after warm-up, final rate as a share of the peak) -> the schedule after warm-up.

wsd holds the peak for four fifths of the steps and then decays linearly (Hu et al. 2024, MiniCPM)."""


def schedule(name: str, *, peak: float, steps: int, warmup: float, floor: float) -> Schedule:
    """Linear warm-up, then the schedule of this name, over a run of `steps`.

    warmup: steps, or below 1 a share of all. floor: the final rate as a share of the peak. Raises InputError for an
    unknown name, and for a warm-up longer than the run.
    """
    check_one_of("--schedule", name, SCHEDULES)
    rising = int(warmup * steps) if warmup < 1 else int(warmup)
    if rising > steps:
        raise InputError(f"--warmup {rising} is longer than the run of {steps} steps")
    after = SCHEDULES[name](peak, steps - rising, floor)
    if not rising:
        return after
    # The rate of the first update is peak / warmup, not 0, so that it already moves the parameters.
    rise = lambda count: peak * (count + 1) / rising  # noqa: E731
    return optax.join_schedules([rise, after], [rising])
