"""Training in a program's own loop: state, compiled steps, checkpoints; and `fit` for those who want the loop."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.api.batches import Batches
from jaxllm.api.model import Model
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.evals.preference import LossEval
from jaxllm.losses import resolve
from jaxllm.params import ModelSpec
from jaxllm.train import fit as loop
from jaxllm.train.forward import Runner
from jaxllm.train.optim import OptimConfig
from jaxllm.train.setup import init_state as start_state
from jaxllm.train.setup import lay_out, prepare
from jaxllm.types import InputError, LossFn, Metrics, Numbers, Params, TrainState, value

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def init_state(model: Model, optimizer: optax.GradientTransformation) -> TrainState:
    """The state to train from: step 0, a copy of the trained parameters, the optimizer's state, sharded like them.

    Steps donate the state's arrays, so the parameters are copied and the model stays as it is; LoRA's frozen base is
    neither copied nor part of the state.
    """
    layout = lay_out(model.start.model, optimizer, model.mesh)
    return start_state(copied(model), optimizer, layout)


def compile_train_step(
    model: Model,
    loss: str | LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int = 0,
    microbatches: int = 1,
    **arguments: Any,
) -> Step:
    """step(state, batch) -> (state, metrics), compiled at its first call; the old state's arrays are donated.

    loss: a name (`python -m jaxllm losses` lists them), a mixture, or a function of your own, decorated with
    `token_loss` or `preference_loss` or of the form (model, batch, key=None) -> Metrics. arguments: its
    hyperparameters. seed: of dropout. microbatches: cuts each batch to save memory; gradients stay the same.
    metrics: float32 scalars by name, "loss" and "grad_norm" among them. The step runs under the model's mesh and
    returns the state in its shardings: without both, XLA shards no activations.
    """
    spec = model.start.model
    compiled, layout = prepare(
        spec, resolve(loss, **arguments), optimizer, model.mesh, seed=seed, microbatches=microbatches
    )
    frozen = {name: model.params[name] for name in layout.frozen}

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = compiled(state, batch, frozen)
        return state, _values(metrics)

    return step


@jax.jit
def _values(metrics: Metrics) -> dict[str, jax.Array]:
    """Each metric's number: its total over its count."""
    return {name: jnp.asarray(value(metric), jnp.float32) for name, metric in metrics.items()}


def copied(model: Model) -> ModelSpec:
    """The model's description, whose parameters are copies of the model's own."""

    def load(wanted: Mapping[str, jax.sharding.Sharding]) -> Params:
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=dict(wanted))
        return copy({name: model.params[name] for name in wanted})

    return dataclasses.replace(model.start.model, load=load)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` returns: the model at the best step if one was asked for, else at the last, and the logged lines."""

    model: Model
    step: int
    log: list[dict[str, Any]]


def fit(
    model: Model,
    *,
    loss: str | LossFn,
    data: Batches,
    optimizer: optax.GradientTransformation | OptimConfig,
    steps: int | None = None,
    evals: Mapping[str, Batches | Callable[[Model], Numbers]] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    loss_args: Mapping[str, Any] | None = None,
    log_to: Sequence[str] = ("terminal",),
    **options: Any,
) -> Fitted:
    """Trains with checkpoints, logging and evaluations, and goes on where an interrupted run in `out` stopped.

    steps: by default the epochs that `data` was made for. evals: held-out batches, scored by the loss and its metrics,
    or a function of the model that returns numbers by name. out: the run's folder, by default a new one below runs/.
    options: those of `jaxllm.train.fit.fit`: eval_every, checkpoint_every, log_every, keep, best="dev/loss:min",
    early_stopping, microbatches, on_nan and others. Raises InputError and RunError.
    """
    function = resolve(loss, **(loss_args or {}))

    def evaluation(by: Batches | Callable[[Model], Numbers]) -> Callable[[Runner], Numbers]:
        if isinstance(by, Batches):
            plan, build = by.loader.plan, by.loader.batch
            return LossEval(function, [build(step) for step in range(plan.steps)], model.graphdef)
        return lambda runner: by(model.with_params(runner.params))

    fitted = loop.fit(
        copied(model), loss=function, data=data.loader, optimizer=optimizer, mesh=model.mesh, out=out, seed=seed,
        steps=steps or len(data), evals={name: evaluation(by) for name, by in (evals or {}).items()},
        log_to=log_to, **options,
    )  # fmt: skip
    return Fitted(model.with_params(fitted.model.params), fitted.position, fitted.log)


def save(state: TrainState, folder: str | Path) -> int:
    """Writes a checkpoint of the state to `folder`, named by its step, which it returns; the newest two are kept."""
    with contextlib.closing(Checkpoints(Path(folder))) as store:
        store.save(step := int(state.step), state, {})
    return step


def restore(folder: str | Path, state: TrainState) -> TrainState:
    """The newest sound checkpoint in `folder`, on the devices and in the shardings of `state`, which it replaces.

    Raises InputError where there is none, or it is another model's or optimizer's.
    """
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with contextlib.closing(Checkpoints(Path(folder), write=False)) as store:
        found = store.newest(like)
    if found is None:
        raise InputError(f"{folder} holds no checkpoint; save one first, or name the folder that save wrote to")
    return found[0]
