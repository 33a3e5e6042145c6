"""Optimizers, schedules, and what of the model they move."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.params import Abstract, select
from jaxllm.types import InputError

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


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How to optimise."""

    learning_rate: float = 5e-5
    """At the peak of the schedule."""
    schedule: str = "linear"
    """After warm-up: constant, linear, cosine, wsd."""
    warmup: float = 0.0
    """Steps of linear warm-up; below 1, a share of all steps."""
    final_learning_rate: float = 0.0
    """At the end of the schedule, as a share of the peak."""
    weight_decay: float = 0.01
    """Decoupled (Loshchilov and Hutter 2017); biases and norms are spared."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: float = 1.0
    """Clip the gradient's global norm to this; 0 for no clipping."""
    head_learning_rate: float | None = None
    """Peak learning rate of the head's parameters, if another."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters to leave as they are: `embeddings.*`, `blocks[:4].*`, `!classifier.*` (all but it)."""


def make_schedule(config: OptimConfig, steps: int) -> Schedule:
    """The learning rate over a run of so many steps."""
    if config.schedule not in SCHEDULES:
        near = difflib.get_close_matches(config.schedule, SCHEDULES, 1) or sorted(SCHEDULES)
        raise InputError(f"--schedule {config.schedule}: there is no such schedule; did you mean {near[0]}?")
    warmup = int(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    if warmup > steps:
        raise InputError(f"--warmup {warmup} is longer than the run of {steps} steps")
    after = SCHEDULES[config.schedule](config.learning_rate, steps - warmup, config.final_learning_rate)
    if not warmup:
        return after
    # The first update already moves: it uses 1/warmup of the peak, not 0.
    rise = lambda count: config.learning_rate * (count + 1) / warmup  # noqa: E731
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(
    config: OptimConfig, params: Abstract, schedule: Schedule, *, head: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """AdamW with clipping, decay by name, freezing and a head of its own learning rate.

    head: patterns of the head's parameters. The train step gives what is frozen no gradient, so it does not count in
    the norm; parameters frozen whole have no moments.
    """
    frozen = select(params, config.freeze)
    ratios = dict.fromkeys(params, 1.0)
    if config.head_learning_rate is not None:
        ratios |= dict.fromkeys(select(params, head), config.head_learning_rate / config.learning_rate)
    whole = {name for name, part in frozen.items() if part == slice(None)}
    slices = {name: part for name, part in frozen.items() if name not in whole}
    decayed = {name: not is_spared(name) for name in params}

    chain = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
    chain += [
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: {name: decayed[name] for name in tree}),
    ]
    chain += [_scaled(ratios)] if len(set(ratios.values())) > 1 else []
    # Weight decay would move what has no gradient.
    chain += [optax.stateless(lambda updates, params: mask(updates, slices))] if slices else []
    chain.append(optax.scale_by_learning_rate(schedule))
    optimizer = optax.chain(*chain)
    if not whole:
        return optimizer
    labels = {name: "frozen" if name in whole else "trained" for name in params}
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def is_spared(name: str) -> bool:
    """Whether weight decay spares a parameter: biases and the scales of norms (stacked, these are matrices too)."""
    return name.rpartition(".")[2] in ("bias", "scale")


def mask(updates: Mapping[str, Any], slices: Mapping[str, slice]) -> dict[str, Any]:
    """Zeroes updates, or gradients, on slices of the leading axis."""

    def one(name: str, x: Any) -> Any:
        if name not in slices or not isinstance(x, jax.Array):  # optax marks what a transform does not see
            return x
        kept = np.ones(x.shape[0], np.float32)
        kept[slices[name]] = 0.0
        return x * kept.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)

    return {name: one(name, x) for name, x in updates.items()}


def _scaled(ratios: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by its ratio."""
    return optax.stateless(
        lambda updates, params: {
            name: x * jnp.asarray(ratios[name], x.dtype) if isinstance(x, jax.Array) else x
            for name, x in updates.items()
        }
    )
