"""Optimizers by name: how each turns gradients into update directions.

Clipping, weight decay, freezing and learning rates are common to all, in `optim.py`. Blocks are stacked, so what an
optimizer does to a whole matrix it does here to the last two axes: each layer, and each expert, as if it were alone.

| name                | moments kept                                   | paper                                         |
|---------------------|------------------------------------------------|-----------------------------------------------|
| adamw               | two                                            | Loshchilov and Hutter 2017                    |
| adafactor           | the second, by rows and columns                | Shazeer and Stern 2018                        |
| lion                | one                                            | Chen et al. 2023                              |
| muon                | one of matrices in blocks, else as adamw       | Jordan et al. 2024; for scale Liu et al. 2025 |
| schedule_free_adamw | the second, and the iterate beside its average | Defazio et al. 2024                           |

One learning rate suits all of them but lion, which needs a third to a tenth of it, as its updates are signs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxllm.train.schedules import Schedule
from jaxllm.types import Params, check_one_of

MOMENTUM = 0.95
"""Of Muon, with Nesterov's step."""

MUON_RMS = 0.2
"""Root mean square of Muon's updates at learning rate 1: about AdamW's (Liu et al. 2025, section 2.2)."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """direction: (beta1, beta2, eps) -> the transformation of gradients. around: (the transformation with weight decay
    and learning rate, the schedule, beta1) -> the whole update."""

    direction: Callable[[float, float, float], optax.GradientTransformation]
    around: Callable[[optax.GradientTransformation, Schedule, float], optax.GradientTransformation] = (
        lambda moving, schedule, beta1: moving
    )


def find(name: str) -> Optimizer:
    """The optimizer of this name. Raises InputError with the nearest for an unknown one."""
    check_one_of("--optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def is_vector(name: str) -> bool:
    """Whether a parameter is a bias or the scale of a norm, by its name because stacked ones are matrices too."""
    return name.rpartition(".")[2] in ("bias", "scale")


def own_axes(name: str, x: Any) -> tuple[int, ...]:
    """The axes of a parameter within one layer or expert: the last one of a vector, the last two of a matrix."""
    return tuple(range(-min(x.ndim, 1 if is_vector(name) else 2), 0))


def clip_rms(threshold: float) -> optax.GradientTransformation:
    """Scales each update down to a root mean square of `threshold` (Shazeer and Stern 2018, section 6).

    `optax.clip_by_block_rms` would take the mean over all layers of a stack.
    """

    def one(name: str, x: Any) -> Any:
        if not isinstance(x, jax.Array):  # optax masks what a transformation does not see
            return x
        rms = jnp.sqrt(jnp.mean(jnp.square(x), axis=own_axes(name, x), keepdims=True))
        return x / jnp.broadcast_to(jnp.maximum(1.0, rms / threshold), x.shape)

    return optax.stateless(lambda updates, params: {name: one(name, x) for name, x in updates.items()})


class Moments(NamedTuple):
    """The state of `adam`, which a skipped step leaves as it was."""

    count: jax.Array  # type: ignore[assignment]
    mu: Any
    nu: Any


def adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam` (Kingma and Ba 2014, algorithm 1) whose update takes `ok`; if false, it keeps the state.

    With optax's, the step would choose between old and new moments after the update, and XLA:CPU would copy the old
    ones first: half of the optimizer's time and memory.
    """

    def init(params: Any) -> Moments:
        return Moments(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(grads: Any, state: Moments, params: Any = None, *, ok: Any = True, **_: Any) -> tuple[Any, Moments]:
        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(ok, new, old)

        mu = jax.tree.map(lambda g, m: kept((1 - beta1) * g + beta1 * m, m), grads, state.mu)
        nu = jax.tree.map(lambda g, v: kept((1 - beta2) * jnp.square(g) + beta2 * v, v), grads, state.nu)
        count = optax.safe_increment(state.count)
        scale = 1 - beta1**count, 1 - beta2**count
        updates = jax.tree.map(lambda m, v: (m / scale[0]) / (jnp.sqrt(v / scale[1]) + eps), mu, nu)
        return updates, Moments(kept(count, state.count), mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _adafactor(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Without momentum, and without scaling by parameter (section 8), so that learning rates are as for the others."""
    return optax.chain(optax.scale_by_factored_rms(), clip_rms(1.0))


def _muon(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Orthogonal updates of matrices inside blocks; AdamW's of embeddings, heads, norms and biases."""
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

    def labels(tree: Mapping[str, Any]) -> dict[str, str]:
        return {n: "muon" if n.startswith("blocks.") and n.endswith(".kernel") else "adam" for n in tree}

    def axes(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {name: matrix if isinstance(x, jax.Array) else x for name, x in tree.items()}

    def even(x: jax.Array) -> jax.Array:  # an orthogonal matrix has a root mean square of max(in, out)^-1/2
        return x * MUON_RMS * max(x.shape[-2:]) ** 0.5

    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(beta=MOMENTUM, weight_dimension_numbers=axes),
        optax.stateless(lambda updates, params: jax.tree.map(even, updates)),
    )
    return optax.partition({"muon": orthogonal, "adam": adam(beta1, beta2, eps)}, labels)


class Averaging(NamedTuple):
    """The state of `averaged`: z, the sum of weights, the number of updates, the largest rate so far, and beta."""

    z: Any
    total: jax.Array
    updates: jax.Array
    largest: jax.Array
    beta: jax.Array
    moving: Any


def averaged(moving: optax.GradientTransformation, schedule: Schedule, beta: float) -> optax.GradientTransformation:
    """Schedule-free learning (Defazio et al. 2024, equations 3 to 5): the parameters are the average x of the iterates.

    `moving` updates z by the gradient at y = beta x + (1 - beta) z, which `gradient_at` gives. Then x moves towards z
    by the weight of the step (the square of the largest rate so far) over the sum of weights. So the parameters that
    are evaluated, saved and exported are x; `optax.contrib.schedule_free` keeps y as the parameters.
    """

    def init(params: Any) -> Averaging:
        zero = jnp.zeros((), jnp.float32)
        copy = jax.tree.map(jnp.copy, params)  # donated apart from the parameters
        return Averaging(copy, zero, jnp.zeros((), jnp.int32), zero, jnp.float32(beta), moving.init(params))

    def update(grads: Any, state: Averaging, params: Any = None) -> tuple[Any, Averaging]:
        largest = jnp.maximum(state.largest, jnp.asarray(schedule(state.updates), jnp.float32))
        weight = jnp.square(largest)
        total = state.total + weight
        share = weight / jnp.where(total > 0, total, 1.0)
        updates, inner = moving.update(grads, state.moving, _between(state, params))
        z = optax.apply_updates(state.z, updates)
        towards = jax.tree.map(lambda x, z: share.astype(x.dtype) * (z - x), params, z)
        return towards, Averaging(z, total, state.updates + 1, largest, state.beta, inner)

    return optax.GradientTransformation(init, update)


def gradient_at(opt_state: Any, params: Params) -> Params:
    """Where to take the gradient: at y if the optimizer averages (`averaged`), else at the parameters."""
    is_averaging = lambda node: isinstance(node, Averaging)  # noqa: E731
    for node in jax.tree.leaves(opt_state, is_leaf=is_averaging):
        if is_averaging(node):
            between = _between(node, params)
            return {name: between[name] if isinstance(between[name], jax.Array) else x for name, x in params.items()}
    return params


def _between(state: Averaging, params: Mapping[str, Any]) -> dict[str, Any]:
    """y; exactly x where z equals x, as in frozen parameters."""
    return {
        name: x + (1 - state.beta.astype(z.dtype)) * (z - x) if isinstance(z := state.z[name], jax.Array) else z
        for name, x in params.items()
    }


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(adam),
    "adafactor": Optimizer(_adafactor),
    "lion": Optimizer(lambda beta1, beta2, eps: optax.scale_by_lion(beta1, beta2)),
    "muon": Optimizer(_muon),
    "schedule_free_adamw": Optimizer(
        lambda beta1, beta2, eps: optax.scale_by_rms(beta2, eps, eps_in_sqrt=False, bias_correction=True), averaged
    ),
}
"""The names that `--optimizer` takes."""
