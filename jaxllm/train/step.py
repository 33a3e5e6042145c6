"""The train step, a pure function of (state, batch).

The step first sums counts over microbatches and the pmap axis, then accumulates the gradient of the sum of
weight x total / count. So each mean is over the whole batch, and the loss and its gradient are the same on one device,
sharded, under pmap and in microbatches. The first pass costs nothing: counts depend on the data alone, so the compiler
removes the forward pass from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.params import GraphDef, bind
from jaxllm.train.optim import mask
from jaxllm.train.optimizers import Moments, gradient_at
from jaxllm.train.rounding import moved, widened
from jaxllm.types import Batch, InputError, LossFn, Mean, Metrics, Params, Terms, TrainState, terms

StepFn = Callable[..., tuple[TrainState, Metrics]]


class _Recorder:
    """A model that records its own metrics (`aux`), so that a loss cannot drop them."""

    def __init__(self, model: Any):
        self._model = model
        self.recorded: Metrics = {}

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        hidden_BTD, aux = self._model.hidden(batch, key)
        for name, metric in aux.items():
            before = self.recorded.get(name)
            self.recorded[name] = metric if before is None else _add(before, metric)
        return hidden_BTD, aux

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def evaluate(
    graphdef: GraphDef, loss: LossFn, params: Params, frozen: Params | None, batch: Any, key: jax.Array | None
) -> Metrics:
    """The metrics that the loss gives for a batch, with the model's own metrics added to them and to "loss"."""
    model = _Recorder(bind(graphdef, {**(frozen or {}), **params}))
    metrics = dict(loss(model, batch, key))
    objective = terms(metrics["loss"])
    for name, metric in model.recorded.items():
        metrics[name] = metric
        objective += terms(metric)
    return {**metrics, "loss": objective}


def make_train_step(
    graphdef: GraphDef,
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int = 1,
    axis: str | None = None,
    freeze: Mapping[str, slice] | None = None,
) -> StepFn:
    """step(state, batch, frozen=None) -> (state, metrics), to be jitted with shardings, or pmapped over `axis`.

    `prepare` in setup.py does either. batch: a tree of arrays with a leading row axis that `microbatches` divides.
    frozen: parameters that are neither trained nor saved. freeze: parameters of the state, or slices of their leading
    axis, that get no gradient. metrics: those of the loss, "grad_norm" (before clipping) and "skipped": 1 for a step
    whose loss or gradient is not finite, which leaves the state as it was. Raises InputError for a loss that couples
    the examples of a batch, if the batch would be split.
    """
    if getattr(loss, "couples_batch", False) and (microbatches > 1 or axis is not None):
        name = getattr(loss, "name", getattr(loss, "__name__", "this loss"))
        how = "microbatches" if microbatches > 1 else "pmap"
        raise InputError(f"{name} depends on the whole batch at once: use one microbatch and --strategy jit, not {how}")

    update = optax.with_extra_args_support(optimizer).update
    whole = {name for name, part in (freeze or {}).items() if part == slice(None)}

    def step(state: TrainState, batch: Any, frozen: Params | None = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        rounding = jax.random.bits(key)  # the same on every device
        wide = widened(state.params)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        parts = jax.tree.map(lambda x: _split(x, microbatches), batch)
        index = jnp.arange(microbatches)
        weights: dict[str, tuple[float, ...]] = {}  # of the terms of each metric, set while tracing

        def sums_of(params: Params, part: Any, i: jax.Array) -> dict[str, list[Mean]]:
            metrics = evaluate(graphdef, loss, params, frozen, part, jax.random.fold_in(key, i))
            weights.update({name: tuple(weight for weight, _ in terms(metric)) for name, metric in metrics.items()})
            return {name: [mean for _, mean in terms(metric)] for name, metric in metrics.items()}

        def total(one: Callable[[Any, jax.Array], Any]) -> Any:
            """The sum of `one` over microbatches and the axis."""
            first = jax.tree.map(lambda x: x[0], parts), index[0]
            if microbatches == 1:
                summed = one(*first)
            else:
                zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, *first))
                add = lambda acc, x: (jax.tree.map(jnp.add, acc, one(*x)), None)  # noqa: E731
                summed, _ = jax.lax.scan(add, zeros, (parts, index))
            return summed if axis is None else jax.lax.psum(summed, axis)

        # None of this depends on the parameters, so the forward pass is dead code here.
        counts = total(lambda part, i: [mean.count for mean in sums_of(state.params, part, i)["loss"]])

        at = gradient_at(state.opt_state, wide)

        def gradient(part: Any, i: jax.Array) -> tuple[Params, dict[str, list[Mean]]]:
            def objective(trained: Params) -> tuple[jax.Array, dict[str, list[Mean]]]:
                sums = sums_of({**at, **trained}, part, i)
                shares = zip(weights["loss"], sums["loss"], counts, strict=True)
                value = sum(weight * mean.total / jnp.where(count == 0, 1.0, count) for weight, mean, count in shares)
                return jnp.asarray(value), sums

            return jax.grad(objective, has_aux=True)({n: x for n, x in at.items() if n not in whole})

        grads, sums = total(gradient)
        grads = mask({n: grads.get(n, jnp.zeros_like(x)) for n, x in wide.items()}, freeze or {})
        metrics: Metrics = {name: _join(weights[name], means) for name, means in sums.items()}
        norm = optax.tree.norm(grads)
        # A gradient that is not finite has a norm that is not finite; a loss need not have such a gradient.
        ok = jnp.isfinite(norm) & jnp.isfinite(sum(mean.total for mean in sums["loss"]))
        updates, opt_state = update(grads, state.opt_state, wide, ok=ok)
        new = TrainState(state.step + 1, moved(state.params, updates, rounding), opt_state)
        kept = lambda x: isinstance(x, Moments)  # noqa: E731  (adam has done it)
        new = jax.tree.map(lambda old, x: x if kept(x) else jnp.where(ok, x, old), state, new, is_leaf=kept)
        one = jnp.ones((), jnp.float32)
        return new, {**metrics, "grad_norm": Mean(norm, one), "skipped": Mean(1.0 - ok.astype(jnp.float32), one)}

    return step


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[rows, ...] as [parts, rows of a part, ...]: every parts-th row, so that rows stay on their devices."""
    if x.shape[0] % parts:
        raise ValueError(f"{x.shape[0]} rows do not divide into {parts} microbatches")
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _add(a: Mean | Terms, b: Mean | Terms) -> Terms:
    """The sum of one metric over two calls of a model."""
    return tuple((weight, x + y) for (weight, x), (_, y) in zip(terms(a), terms(b), strict=True))


def _join(weights: tuple[float, ...], means: list[Mean]) -> Mean | Any:
    if weights == (1.0,):
        return means[0]
    return tuple((jnp.float32(weight), mean) for weight, mean in zip(weights, means, strict=True))
