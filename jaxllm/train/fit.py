"""The training loop, and nothing else."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxllm.data.loader import Loader
from jaxllm.params import ModelSpec, count, materialize, select
from jaxllm.train import mesh as meshes
from jaxllm.train.checkpoint import Checkpoints
from jaxllm.train.forward import Runner
from jaxllm.train.log import Sums, Writer, open_writers, peak_flops, read_jsonl
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.run import Run, best_of, start_run
from jaxllm.train.step import StepFn, make_train_step
from jaxllm.types import InputError, LossFn, Numbers, TrainState, value

Eval = Callable[[Runner], Numbers]
"""An evaluation: a function of the model, with its batches inside, that returns numbers by name."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run ends with: the model at the best step if one was asked for, else at the last."""

    model: Runner
    position: int
    """The step that the model is of."""
    log: list[dict[str, Any]]
    """metrics.jsonl."""
    compile_s: float
    """Seconds until the first step was done, 0 where none was taken."""


class Terminated(SystemExit):
    """SIGTERM came; the state is saved. Exit status 143, as a shell reports it."""

    def __init__(self) -> None:
        super().__init__(143)


def fit(
    model: ModelSpec,
    *,
    loss: LossFn,
    data: Loader,
    optimizer: OptimConfig,
    run: Run,
    mesh: Mesh,
    steps: int,
    seed: int,
    evals: Mapping[str, Eval] | None = None,
    head: tuple[str, ...] = (),
    strategy: str = "jit",
    microbatches: int = 1,
    on_nan: str = "stop",
    log_to: Sequence[str] = ("terminal",),
    log_every: int = 10,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 2,
    best: str | None = None,
    early_stopping: int = 0,
) -> Fitted:
    """Trains to `steps`, continuing from the run's newest checkpoint if there is one.

    evals: name -> evaluation, run every `eval_every` steps and at the end (0: at the end only), logged as name/number.
    head: patterns of the parameters that `head_learning_rate` is for. best: "dev/f1:max" keeps the best step beside the
    newest `keep`. early_stopping: stop after so many evaluations without a better `best` (0: never).
    checkpoint_every: steps between checkpoints, beside that of the end (0: none).
    """
    metric, _, mode = (best or "").partition(":")
    if best and (mode not in ("max", "min") or metric.partition("/")[0] not in (evals or {})):
        raise InputError(f"--best {best}: give EVALUATION/NUMBER:max or :min, with one of {', '.join(evals or {})}")
    if early_stopping and not best:
        raise InputError("--early-stopping needs --best, such as dev/f1:max, to know what is better")
    rows = data.plan.rows
    _check_rows(rows, mesh, strategy, microbatches)
    schedule = make_schedule(optimizer, steps)
    abstract = model.graphdef.abstract
    transform = make_optimizer(optimizer, abstract, schedule, head=head)
    freeze = select(abstract, optimizer.freeze)
    axis = "data" if strategy == "pmap" else None
    step = make_train_step(
        model.graphdef, loss, transform, seed=seed, microbatches=microbatches, axis=axis, freeze=freeze
    )
    params_at = meshes.shardings(abstract, mesh, model.rules)
    opt_at = meshes.shardings(jax.eval_shape(transform.init, abstract), mesh, model.rules, abstract)
    start_run(run)

    checkpoints = Checkpoints(run.folder / "checkpoints", keep)
    state, start, meta = _start(model, transform, params_at, opt_at, meshes.replicated(mesh), checkpoints, seed)
    log_path = run.folder / "metrics.jsonl"
    writers = open_writers(log_to, run.folder, position=start, steps=steps, config=run.config)
    sums = Sums(meta.get("sums"))
    runner = Runner(model.graphdef, state.params, mesh)
    train = compile_step(step, strategy, mesh, state, params_at, opt_at)
    clock = _Clock(mesh, 6 * count(abstract))
    history = [line for line in read_jsonl(log_path) if line.get(metric) is not None] if best else []
    local = meshes.local_rows(mesh, rows)
    position, best_step = start, meta.get("best")
    todo = range(0) if meta.get("stopped") else range(start + 1, steps + 1)
    batches = data.iterate(start, steps, local) if todo else iter(())

    with _sigterm() as terminated:
        pending: list[Any] = []
        for position in todo:
            batch = next(batches)
            clock.count(batch)
            state, metrics = train(state, _put(batch, mesh, rows, local, strategy))
            pending.append(metrics)
            if position == start + 1:
                jax.block_until_ready(metrics)
                clock.compiled()
            last = position == steps
            stop = terminated.is_set()
            evaluate = bool(evals) and (last or (eval_every and position % eval_every == 0))
            save = last or stop or (checkpoint_every and position % checkpoint_every == 0)
            if position % log_every == 0 or evaluate or save:
                for fetched in jax.device_get(pending):
                    sums.add(fetched)
                    if float(value(fetched["skipped"])) and on_nan == "stop":
                        _stop_on_nan(checkpoints, state, position, sums)
                pending.clear()
            if position % log_every == 0 or last:
                _log(writers, position, sums.values(), float(schedule(state.step - 1)), clock, data)
                sums = Sums()
            improved = stopped = False
            if evaluate and not stop:
                with clock.paused():
                    numbers = _evaluate(evals or {}, runner.with_params(state.params))
                    _write(writers, position, numbers)
                if best:
                    history.append({"step": position, **numbers})
                    best_step = best_of(history, metric, mode)["step"]
                    improved = best_step == position
                    stale = sum(line["step"] > best_step for line in history)
                    stopped = bool(early_stopping) and stale >= early_stopping
            if save or improved or stopped:
                with clock.paused():
                    meta = {"sums": sums.state, "best": best_step, "stopped": stopped}
                    checkpoints.save(position, state, meta, best_step)
            if stop:
                checkpoints.close()
                raise Terminated
            if stopped:
                break
        for writer in writers:
            writer.close()

    checkpoints.wait()
    if best_step is not None and best_step != position:
        position = best_step
        state = dataclasses.replace(state, params=checkpoints.params(position, like(abstract, params_at)))
    checkpoints.close()
    return Fitted(runner.with_params(state.params), position, read_jsonl(log_path), clock.compile_s)


def compile_step(
    step: StepFn, strategy: str, mesh: Mesh, state: TrainState, params_at: Any, opt_at: Any
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """The step under jit with shardings, or under pmap over the data axis; the state is donated."""
    if strategy == "pmap":
        over = jax.pmap(
            step, axis_name="data", in_axes=(None, 0, None), out_axes=None,
            donate_argnums=0, devices=list(mesh.devices.flat),
        )  # fmt: skip
        return lambda state, batch: over(state, batch, None)
    at = TrainState(meshes.replicated(mesh), params_at, opt_at)
    return jax.jit(step, donate_argnums=0, out_shardings=(at, meshes.replicated(mesh)))


def like(abstract: Mapping[str, Any], shardings: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes that know where they belong."""
    return {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[n]) for n, x in abstract.items()}


def _start(
    model: ModelSpec, transform: Any, params_at: Any, opt_at: Any, scalar: Any, checkpoints: Checkpoints, seed: int
) -> tuple[TrainState, int, dict[str, Any]]:
    """The state to begin with, how many batches it has seen, and what was saved beside it."""
    opt_init = jax.jit(transform.init, out_shardings=opt_at)
    if (position := checkpoints.latest()) is None:
        params = materialize(model, params_at, seed)
        return TrainState(jax.device_put(jnp.zeros((), jnp.int32), scalar), params, opt_init(params)), 0, {}
    abstract = model.graphdef.abstract
    opt = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(transform.init, abstract),
        opt_at,
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar)
    state, meta = checkpoints.restore(position, TrainState(step, like(abstract, params_at), opt))  # type: ignore[arg-type]
    return state, position, meta


def _check_rows(rows: int, mesh: Mesh, strategy: str, microbatches: int) -> None:
    if strategy not in ("jit", "pmap"):
        raise InputError(f"--strategy {strategy}: give jit or pmap")
    if strategy == "pmap" and mesh.shape["data"] != mesh.size:
        raise InputError("--strategy pmap keeps a copy of the model per device: use a mesh of data alone, or jit")
    if rows % (meshes.row_multiple(mesh) * microbatches):
        raise InputError(
            f"{rows} rows a step do not divide over {meshes.row_multiple(mesh)} devices x {microbatches} microbatches: "
            "change --batch-size, --microbatches or --mesh"
        )


def _put(batch: Any, mesh: Mesh, rows: int, local: Sequence[int], strategy: str) -> Any:
    if strategy == "pmap":
        return jax.tree.map(lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:]), batch)
    return meshes.put_batch(batch, mesh, rows, local)


def _evaluate(evals: Mapping[str, Eval], model: Runner) -> dict[str, float]:
    return {f"{name}/{key}": x for name, run in evals.items() for key, x in run(model).items()}


def _write(writers: Sequence[Writer], position: int, numbers: Mapping[str, Any]) -> None:
    for writer in writers:
        writer.write(position, numbers)


def _log(
    writers: Sequence[Writer], position: int, numbers: dict[str, float], rate: float, clock: _Clock, data: Loader
) -> None:
    skipped = numbers.pop("skipped")
    epoch = position / data.plan.steps
    line = {**numbers, "learning_rate": rate, "epoch": epoch, **clock.lap()}
    _write(writers, position, {**line, "skipped": skipped} if skipped else line)


def _stop_on_nan(checkpoints: Checkpoints, state: TrainState, position: int, sums: Sums) -> None:
    checkpoints.save(position, state, {"sums": sums.state})
    checkpoints.close()
    raise FloatingPointError(
        f"the loss or its gradient was not finite near step {position}; the last good state is saved. "
        "Lower --learning-rate, or go on with --on-nan skip"
    )


class _Clock:
    """Tokens per second of training alone: compiling, evaluating and saving are not counted."""

    def __init__(self, mesh: Mesh, flops_per_token: float):
        self.compile_s = 0.0
        self._began = self._lap = time.monotonic()
        self._tokens = self._waited = 0.0
        peak = peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size / flops_per_token

    def count(self, batch: Any) -> None:
        segments = getattr(batch, "batch", batch).segments_BT
        self._tokens += float(np.count_nonzero(segments))

    def compiled(self) -> None:
        """The first step is done; what it took is no measure of speed."""
        self.compile_s = time.monotonic() - self._began
        self._tokens, self._waited, self._lap = 0.0, 0.0, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def lap(self) -> dict[str, float | None]:
        """Since the last call; None where nothing was timed."""
        now = time.monotonic()
        tokens = self._tokens
        if jax.process_count() > 1:
            tokens = float(np.sum(multihost_utils.process_allgather(np.float32(tokens))))
        speed = tokens / (now - self._lap - self._waited) if tokens else None
        self._tokens, self._waited, self._lap = 0.0, 0.0, now
        return {"tokens_per_s": speed, "mfu": speed / self._peak if speed and self._peak else None}


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save before it leaves."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
