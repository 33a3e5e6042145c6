"""Builds an optimizer from a configuration, with clipping, weight decay, freezing and learning rates by parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.params import Abstract, select
from jaxllm.train import optimizers, schedules
from jaxllm.train.moments import kept_as
from jaxllm.train.optimizers import is_vector
from jaxllm.train.schedules import Schedule
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its hyperparameters and its learning-rate schedule."""

    optimizer: str = "adamw"
    """A name in `optimizers.OPTIMIZERS`."""
    learning_rate: float = 5e-5
    """At the peak of the schedule."""
    schedule: str = "linear"
    """After warm-up: constant, linear, cosine, wsd."""
    warmup: float = 0.0
    """Steps of linear warm-up; below 1, a share of all steps."""
    final_learning_rate: float = 0.0
    """At the end of the schedule, as a share of the peak."""
    weight_decay: float = 0.01
    """Decoupled (Loshchilov and Hutter 2017); not applied to biases and norms."""
    beta1: float = 0.9
    """Decay of the first moment (adafactor has none); in schedule_free_adamw the weight of x in y."""
    beta2: float = 0.999
    """Decay of the second moment, and of lion's only moment; adafactor derives its own from the step."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    moments: str = "float32"
    """What the optimizer keeps between steps: float32, bfloat16 (rounded stochastically) or int8 (in blocks)."""
    max_grad_norm: float = 1.0
    """Clip the gradient's global norm to this; 0 for no clipping."""
    head_learning_rate: float | None = None
    """Peak learning rate of the head's parameters, if it differs."""
    param_dtype: str = "float32"
    """What parameters are kept in between steps: float32, or bfloat16, rounded stochastically."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters not to train: `embeddings.*`, `blocks[:4].*`, `!classifier.*` (all but the classifier)."""


def make_schedule(config: OptimConfig, steps: int) -> Schedule:
    """The learning rate over a run of `steps`. Raises InputError."""
    return schedules.schedule(
        config.schedule, peak=config.learning_rate, steps=steps, warmup=config.warmup, floor=config.final_learning_rate
    )


def frozen_of(params: Abstract, patterns: tuple[str, ...]) -> dict[str, slice]:
    """The parameters not to train, each with the slice of its layers. Raises InputError where nothing is left."""
    frozen = select(params, patterns)
    if params and all(frozen.get(name) == slice(None) for name in params):
        raise InputError(
            f"--freeze {' '.join(patterns)} leaves no parameter to train: narrow the patterns, or leave it out"
        )
    return frozen


def make_optimizer(
    config: OptimConfig, params: Abstract, schedule: Schedule, *, head: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """The optimizer with clipping, weight decay, freezing, and the head's learning rate.

    head: patterns of the head's parameters. The train step gives frozen parameters no gradient, so they do not count in
    the norm; a parameter that is frozen as a whole has no moments. Raises InputError.
    """
    kind = optimizers.find(config.optimizer)
    frozen = frozen_of(params, config.freeze)
    ratios = dict.fromkeys(params, 1.0)
    if config.head_learning_rate is not None:
        ratios |= dict.fromkeys(select(params, head), config.head_learning_rate / config.learning_rate)
    whole = {name for name, part in frozen.items() if part == slice(None)}
    slices = {name: part for name, part in frozen.items() if name not in whole}
    decayed = {name: not is_vector(name) for name in params}

    moving = [
        kept_as(config.moments, kind.direction(config.beta1, config.beta2, config.eps)),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: {name: decayed[name] for name in tree}),
    ]
    moving += [_scaled(ratios)] if len(set(ratios.values())) > 1 else []
    # Weight decay would move a slice that has no gradient.
    moving += [optax.stateless(lambda updates, params: mask(updates, slices))] if slices else []
    moving.append(optax.scale_by_learning_rate(schedule))
    clip = [_clipped(config.max_grad_norm)] if config.max_grad_norm else []
    optimizer = optax.chain(*clip, kind.around(optax.chain(*moving), schedule, config.beta1))
    if not whole:
        return optimizer
    labels = {name: "frozen" if name in whole else "trained" for name in params}
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _clipped(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` as one multiplication, which spares XLA:CPU a copy of the gradients."""

    def clip(updates: Any, params: Any) -> Any:
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(clip)


def mask(updates: Mapping[str, Any], slices: Mapping[str, slice]) -> dict[str, Any]:
    """Sets updates, or gradients, to zero on slices of the leading axis."""

    def one(name: str, x: Any) -> Any:
        if name not in slices or not isinstance(x, jax.Array):  # optax masks what a transformation does not see
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
