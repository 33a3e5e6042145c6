"""The training loop, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxllm.data.loader import Loader
from jaxllm.params import ModelSpec, count, materialize, select
from jaxllm.train import mesh as meshes
from jaxllm.train.best import parse_best
from jaxllm.train.blame import Blame
from jaxllm.train.checkpoint import Checkpoints
from jaxllm.train.forward import Runner
from jaxllm.train.log import Clock, Sums, Writer, open_writers, read_jsonl, say
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.run import Run, start_run
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

    model: what it calls frozen is the step's third argument, all else is trained and saved. evals: name -> evaluation,
    run every `eval_every` steps and at the end (0: at the end only), logged as name/number. head: patterns of the
    parameters that `head_learning_rate` is for. best: "dev/f1:max" keeps the best step beside the newest `keep`.
    early_stopping: stop after so many evaluations without a better `best` (0: never). checkpoint_every: steps between
    checkpoints, beside that of the end (0: none).
    """
    evals = evals or {}
    top = parse_best(best, evals)
    if early_stopping and not best:
        raise InputError("--early-stopping needs --best, such as dev/f1:max, to know what is better")
    rows = data.plan.rows
    _check_rows(rows, mesh, strategy, microbatches)
    schedule = make_schedule(optimizer, steps)
    trained = model.trained
    transform = make_optimizer(optimizer, trained, schedule, head=head)
    freeze = select(trained, optimizer.freeze)
    axis = "data" if strategy == "pmap" else None
    step = make_train_step(
        model.graphdef, loss, transform, seed=seed, microbatches=microbatches, axis=axis, freeze=freeze
    )
    all_at = meshes.shardings(model.graphdef.abstract, mesh, model.rules, limits=model.graphdef.limits)
    frozen_at = {name: at for name, at in all_at.items() if name in model.frozen}
    params_at = {name: at for name, at in all_at.items() if name in trained}
    opt_at = meshes.shardings(jax.eval_shape(transform.init, trained), mesh, model.rules, trained)
    start_run(run)
    train = compile_step(step, strategy, mesh, params_at, opt_at)
    # A frozen parameter has no gradient of its own; whether one passes through it is not known here.
    clock = Clock(mesh, 6 * count(trained) + 2 * (count(model.graphdef.abstract) - count(trained)))
    log_path, local = run.folder / "metrics.jsonl", meshes.local_rows(mesh, rows)

    with _sigterm() as terminated, contextlib.ExitStack() as leaving:
        checkpoints = Checkpoints(run.folder / "checkpoints", keep)
        leaving.callback(checkpoints.close)
        state, start, meta = _start(model, transform, params_at, opt_at, meshes.replicated(mesh), checkpoints, seed)
        frozen = materialize(model, frozen_at, seed)
        writers = open_writers(log_to, run.folder, position=start, steps=steps, config=run.config)
        for writer in writers:
            leaving.callback(writer.close)
        top.recall(read_jsonl(log_path), checkpoints.positions())
        runner = Runner(model.graphdef, {**frozen, **state.params}, mesh)
        sums = Sums(meta.get("sums"))

        def assess(position: int) -> None:
            with clock.paused():
                model_now = runner.with_params({**frozen, **state.params})
                numbers = {f"{name}/{key}": x for name, run in evals.items() for key, x in run(model_now).items()}
                _write(writers, position, numbers)
            top.add(position, numbers)

        def save(owed: bool = False) -> None:
            with clock.paused():
                checkpoints.save(position, state, {"sums": sums.state, "owed": owed}, top.step)

        position = start
        if meta.get("owed") and not any(line["step"] == start and "loss" not in line for line in read_jsonl(log_path)):
            assess(start)
        ended = bool(early_stopping) and top.stale >= early_stopping
        todo = range(0) if ended else range(start + 1, steps + 1)
        batches = data.iterate(start, steps, local) if todo else iter(())
        pending: list[Any] = []
        blame = Blame(model.graphdef, loss, model.frozen, data.plan, mesh, local, run.folder, start)
        leaving.callback(blame.close)
        for position in todo:
            batch = next(batches)
            clock.count(batch)
            state, metrics = train(state, _put(batch, mesh, rows, local, strategy), frozen)
            pending.append((batch, metrics))
            if position == start + 1:
                jax.block_until_ready(metrics)
                clock.compiled()
            last = position == steps
            stop = terminated.is_set()
            evaluate = bool(evals and (last or (eval_every and position % eval_every == 0)))
            due = last or stop or (checkpoint_every and position % checkpoint_every == 0)
            if position % log_every == 0 or evaluate or due:
                fetched = jax.device_get(pending)
                pending.clear()
                for number, (batch, one) in enumerate(fetched, start=position + 1 - len(fetched)):
                    sums.add(one)
                    if not float(value(one["skipped"])):
                        continue
                    said = blame(number, batch, one, {**frozen, **state.params})
                    if on_nan == "stop":
                        save(owed=evaluate)
                        raise FloatingPointError(
                            f"{said}; the last good state is saved. Look at these rows, lower --learning-rate, or go "
                            "on with --on-nan skip"
                        )
                    say(writers, f"skipped: {said}")
            if position % log_every == 0 or last:
                _log(writers, position, sums.values(), float(schedule(state.step - 1)), clock, data)
                sums = Sums()
            if stop:  # an evaluation may take longer than there is left
                save(owed=evaluate)
                raise Terminated
            if evaluate:
                assess(position)
                ended = bool(early_stopping) and top.stale >= early_stopping
            if due or ended or top.step == position:
                save()
            if ended:
                break
        checkpoints.wait()
        if top.step is not None and top.step != position:
            position = top.step
            state = dataclasses.replace(state, params=checkpoints.params(position, like(trained, params_at)))
    return Fitted(runner.with_params({**frozen, **state.params}), position, read_jsonl(log_path), clock.compile_s)


def compile_step(step: StepFn, strategy: str, mesh: Mesh, params_at: Any, opt_at: Any) -> StepFn:
    """The step under jit with shardings, or under pmap over the data axis; the state alone is donated."""
    if strategy == "pmap":
        over = jax.pmap(
            step, axis_name="data", in_axes=(None, 0, None), out_axes=None,
            donate_argnums=0, devices=list(mesh.devices.flat),
        )  # fmt: skip
        return lambda state, batch, frozen=None: over(state, batch, frozen)
    at = TrainState(meshes.replicated(mesh), params_at, opt_at)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(at, meshes.replicated(mesh)))

    def on_mesh(state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Any]:
        with jax.set_mesh(mesh):  # which attention and the chunked head cut themselves along
            return compiled(state, batch, frozen)

    return on_mesh


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
    trained = model.trained
    opt = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(transform.init, trained),
        opt_at,
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar)
    state, meta = checkpoints.restore(position, TrainState(step, like(trained, params_at), opt))  # type: ignore[arg-type]
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


def _write(writers: Sequence[Writer], position: int, numbers: Mapping[str, Any]) -> None:
    for writer in writers:
        writer.write(position, numbers)


def _log(
    writers: Sequence[Writer], position: int, numbers: dict[str, float], rate: float, clock: Clock, data: Loader
) -> None:
    skipped = numbers.pop("skipped")
    epoch = position / data.plan.steps
    line = {**numbers, "learning_rate": rate, "epoch": epoch, **clock.lap()}
    _write(writers, position, {**line, "skipped": skipped} if skipped else line)


@contextlib.contextmanager
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
