"""A model whose logits are divided by a temperature: what sampled at that temperature is trained at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxllm.types import Batch, LossFn, Metrics


class Tempered:
    """A model, and its teacher if it has one, with logits divided by a temperature."""

    def __init__(self, model: Any, temperature: float):
        self._model, self._temperature = model, temperature

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The model's own."""
        return self._model.hidden(batch, key)

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV over the temperature."""
        return self._model.head(hidden_ND) / self._temperature

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        return Tempered(found, self._temperature) if name == "teacher" and found is not None else found


class TemperedLoss:
    """A loss at a temperature. It has the attributes of the loss."""

    def __init__(self, loss: Any, temperature: float):
        self._loss, self._temperature = loss, temperature

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics:
        return self._loss(Tempered(model, self._temperature), batch, key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)


def at_temperature(loss: LossFn, temperature: float) -> LossFn:
    """The loss of a policy that samples at this temperature; at 1 the loss itself."""
    return loss if temperature == 1 else TemperedLoss(loss, temperature)


def values_at(fn: Callable[[Any, Any], Any], temperature: float) -> Callable[[Any, Any], Any]:
    """A function of (model, batch) at this temperature; at 1 the function itself."""
    return fn if temperature == 1 else lambda model, batch: fn(Tempered(model, temperature), batch)
