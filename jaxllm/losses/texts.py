"""Losses per text whose target is a vector: of labels that each apply or not, or of one number.

A text of one label needs none of these: its target is a number of a class, and every loss of tokens takes it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import Positive, parameters
from jaxllm.losses.chunks import sum_over_chunks
from jaxllm.losses.decorated import Decorated, example_array
from jaxllm.losses.tokens import over_hidden
from jaxllm.types import InputError, Labelled, LossFn, Mean, Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class TextLoss(Decorated):
    """A LossFn over `Labelled`: the mean over texts, by weight, of a function of their logits and targets."""

    unit: ClassVar[str] = "text"

    def __call__(self, model: Any, batch: Labelled, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        rows, each = batch.batch, functools.partial(self.each, **arguments)
        targets_BTV = jnp.take_along_axis(batch.targets_BAV, rows.targets_BT[..., None], axis=1, mode="clip")
        hidden_BTD, _ = model.hidden(rows, key)

        def head(hidden: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            logits_NV, targets_NV = model.head(hidden[0]), hidden[1]
            if logits_NV.shape != targets_NV.shape:
                wanted = f"the targets have {targets_NV.shape[-1]} numbers per text"
                raise InputError(f"{wanted}, and the model's head gives {logits_NV.shape[-1]}")
            return logits_NV, targets_NV

        def values(both: tuple[jax.Array, jax.Array], _: jax.Array) -> jax.Array:
            return each(*both)

        total = over_hidden(head, (hidden_BTD, targets_BTV), rows, values, sum_over_chunks)
        return {"loss": Mean(total, jnp.sum(rows.weights_BT))}

    def example(self, **arguments: Any) -> tuple[Any, ...]:
        """Logits and targets as shapes and dtypes."""
        return example_array(8, 6), example_array(8, 6)


def text_loss(fn: Callable[..., jax.Array]) -> LossFn:
    """Makes `fn(logits_NV, targets_NV, **hyperparameters) -> loss_N` a LossFn over `Labelled`: the mean over texts.

    Both are float32 (or better); loss_N is one float per text. V is the number of labels, or 1 for a number.
    """
    return TextLoss(fn.__name__, fn, parameters(fn, 2))


@text_loss
def binary_cross_entropy(logits_NV: jax.Array, targets_NV: jax.Array) -> jax.Array:
    """Mean over labels of -w log sigmoid(x) where a label applies, of -log sigmoid(-x) elsewhere, [N], in nats.

    The target is w where the label applies (1 unless labels are weighed), and 0 elsewhere (Bishop 2006, section 4.3.2).
    """
    present_NV = -targets_NV * jax.nn.log_sigmoid(logits_NV)
    absent_NV = -jax.nn.log_sigmoid(-logits_NV)
    return jnp.mean(jnp.where(targets_NV > 0, present_NV, absent_NV), axis=-1)


@text_loss
def mse(logits_NV: jax.Array, targets_NV: jax.Array) -> jax.Array:
    """Mean of (x - y)^2, [N] (Bishop 2006, section 3.1.1)."""
    return jnp.mean(jnp.square(logits_NV - targets_NV), axis=-1)


@text_loss
def huber(logits_NV: jax.Array, targets_NV: jax.Array, *, delta: Positive = 1.0) -> jax.Array:
    """Mean of d^2 / 2 where d = |x - y| is at most delta, else of delta (d - delta / 2), [N] (Huber 1964)."""
    distance_NV = jnp.abs(logits_NV - targets_NV)
    near_NV = jnp.minimum(distance_NV, delta)
    return jnp.mean(near_NV * (distance_NV - near_NV / 2), axis=-1)
