"""The training loop, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxllm.checkpoint.policy import Saver
from jaxllm.data.loader import Loader
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import messages
from jaxllm.params import ModelSpec, count, materialize, select
from jaxllm.run import preemption, watchdog
from jaxllm.run.best import parse_best
from jaxllm.run.folder import Run, claim, start_run
from jaxllm.run.metrics import Clock, Sums, Writer, open_writers, read_jsonl, say
from jaxllm.run.preemption import Terminated
from jaxllm.run.spikes import Spikes
from jaxllm.train.forward import Runner
from jaxllm.train.nonfinite import Blame
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.setup import begin, check_rows, compile_step, lay_out, open_checkpoints, put
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, LossFn, Numbers, RunError, value

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


class NotFinite(RunError, FloatingPointError):
    """The loss or its gradient is not finite; the last good state is saved."""


class _Interrupted(Exception):
    """SIGTERM came within an evaluation."""


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
    checkpoint_minutes: float = 0.0,
    checkpoints: str | None = None,
    keep: int = 2,
    keep_every: int = 0,
    best: str | None = None,
    early_stopping: int = 0,
    hang_timeout: float = 0.0,
    check_replicas: bool = False,
    wandb: Mapping[str, Any] | None = None,
) -> Fitted:
    """Trains to `steps`, continuing from the run's newest sound checkpoint if there is one.

    model: what it calls frozen is the step's third argument, all else is trained and saved. evals: name -> evaluation,
    run every `eval_every` steps and at the end (0: at the end only), logged as name/number. head: patterns of the
    parameters that `head_learning_rate` is for. best: "dev/f1:max" keeps the best step beside the newest `keep` and
    those at multiples of `keep_every`. early_stopping: stop after so many evaluations without a better `best` (0:
    never). checkpoint_every, checkpoint_minutes: between checkpoints, beside that of the end (0: none). checkpoints:
    their folder or bucket, by default below the run's. hang_timeout: seconds after which a step that does not end ends
    the process (0: never). check_replicas: compare what devices hold in common at each checkpoint. wandb: project,
    entity, name and tags of the run at Weights & Biases.
    Raises InputError, RunError (what was saved stands) and, when SIGTERM came and the state is saved, Terminated.
    """
    evals = evals or {}
    top = parse_best(best, evals)
    if early_stopping and not best:
        raise InputError("--early-stopping needs --best, such as dev/f1:max, to know what is better")
    rows = data.plan.rows
    check_rows(rows, mesh, strategy, microbatches)
    schedule = make_schedule(optimizer, steps)
    transform = make_optimizer(optimizer, model.trained, schedule, head=head)
    freeze = select(model.trained, optimizer.freeze)
    step = make_train_step(
        model.graphdef, loss, transform, seed=seed, microbatches=microbatches,
        axis="data" if strategy == "pmap" else None, freeze=freeze,
    )  # fmt: skip
    layout = lay_out(model, transform, mesh)
    train = compile_step(step, strategy, mesh, layout.params, layout.opt_state)
    # A frozen parameter has no gradient of its own; whether one passes through it is not known here.
    clock = Clock(mesh, 4 * count(model.trained) + 2 * count(model.graphdef.abstract))
    log_path, local = run.folder / "metrics.jsonl", meshes.local_rows(mesh, rows)

    with preemption.listening(), contextlib.ExitStack() as leaving:
        leaving.enter_context(claim(run))
        start_run(run)
        store = open_checkpoints(checkpoints or run.folder / "checkpoints", keep, keep_every)
        leaving.callback(store.close)
        state, start, meta = begin(model, transform, layout, store, run, data, seed)
        frozen = materialize(model, layout.frozen, seed)
        about = {"run": run.config, "data": data.fingerprint(), "seed": seed, "mesh": dict(mesh.shape)}
        saver = Saver(store, mesh, checkpoint_every, checkpoint_minutes, about, check_replicas)
        clock.total = meta.get("tokens", 0)
        writers = open_writers(log_to, run.folder, position=start, steps=steps, config=run.config, wandb=wandb)
        for writer in writers:
            leaving.callback(writer.close)
        if start:
            say(writers, f"goes on from step {start} of {run.folder}, {max(0, steps - start)} to go")
        log = json.loads(messages.broadcast(json.dumps(_evaluations(read_jsonl(log_path, start), evals))))
        top.recall(log, store.positions())
        sums, spikes = Sums(meta.get("sums")), Spikes(meta.get("spikes", ()))
        position = start

        def between() -> None:
            watchdog.step(position)
            if preemption.reached():
                raise _Interrupted

        runner = Runner(model.graphdef, {**frozen, **state.params}, mesh, between=between)

        def assess() -> None:
            with clock.paused():
                model_now = runner.with_params({**frozen, **state.params})
                numbers: dict[str, float] = {}
                try:
                    for name, evaluation in evals.items():
                        between()
                        numbers |= {f"{name}/{key}": x for key, x in evaluation(model_now).items()}
                except _Interrupted:
                    save(owed=True)
                    raise Terminated from None
                _write(writers, position, numbers)
            top.add(position, numbers)

        def save(owed: bool = False) -> None:
            with clock.paused(), watchdog.paused():
                clock.sync()
                now = {"sums": sums.state, "owed": owed, "tokens": clock.total, "spikes": spikes.state}
                saver.save(position, state, now, top.step)
                if owed:
                    store.wait()

        if meta.get("owed") and not any(line["step"] == start for line in log):
            assess()
        ended = bool(early_stopping) and top.stale >= early_stopping
        todo = range(0) if ended else range(start + 1, steps + 1)
        batches = data.iterate(start, steps, local) if todo else iter(())
        pending: list[Any] = []
        blame = Blame(model.graphdef, loss, model.frozen, data.plan, mesh, local, run.folder, start)
        leaving.callback(blame.close)
        for position in todo:
            if position == start + 2:  # the first is compiled
                leaving.enter_context(watchdog.loop(hang_timeout))
            watchdog.step(position)
            batch = next(batches)
            clock.count(batch)
            state, metrics = train(state, put(batch, mesh, rows, local, strategy), frozen)
            pending.append((batch, metrics))
            if position == start + 1:
                jax.block_until_ready(metrics)
                clock.compiled()
                preemption.owe()
            last, stop = position == steps, preemption.reached()
            logged = position % log_every == 0 or last
            evaluate = bool(evals and (last or (eval_every and position % eval_every == 0)))
            due = saver.due(position, logged) or last or stop or bool(keep_every and position % keep_every == 0)
            if logged or evaluate or due:
                fetched = jax.device_get(pending)
                pending.clear()
                for number, (batch, one) in enumerate(fetched, start=position + 1 - len(fetched)):
                    sums.add(one)
                    x = float(value(one["loss"]))
                    if (before := spikes.add(x)) is not None:
                        _write(writers, number, {"spike/loss": x, "spike/before": before})
                    if not float(value(one["skipped"])):
                        continue
                    said = blame(number, batch, one, {**frozen, **state.params})
                    if on_nan == "stop":
                        save(owed=evaluate)
                        raise NotFinite(
                            f"{said}; the last good state is saved. Look at these rows, lower --learning-rate, or go "
                            "on with --on-nan skip"
                        )
                    say(writers, f"skipped: {said}")
            if logged:
                _log(writers, position, sums.values(), float(schedule(state.step - 1)), clock, data)
                sums = Sums()
            if stop:  # an evaluation may take longer than there is left
                save(owed=evaluate)
                store.wait()
                raise Terminated
            if evaluate:
                assess()
                ended = bool(early_stopping) and top.stale >= early_stopping
            if due or ended or top.step == position:
                save()
            if ended:
                break
        store.wait()
        preemption.settle()
        if top.step is not None and top.step != position:
            position = top.step
            state = dataclasses.replace(state, params=store.params(position, layout.like.params))
    runner = dataclasses.replace(runner, params={**frozen, **state.params}, between=lambda: None)
    return Fitted(runner, position, read_jsonl(log_path), clock.compile_s)


def _evaluations(lines: Iterable[Mapping[str, Any]], evals: Iterable[str]) -> list[Mapping[str, Any]]:
    """The lines that evaluations left."""
    known = tuple(f"{name}/" for name in evals)
    return [line for line in lines if any(key.startswith(known) for key in line)]


def _write(writers: Sequence[Writer], position: int, numbers: Mapping[str, Any]) -> None:
    for writer in writers:
        writer.write(position, numbers)


def _log(
    writers: Sequence[Writer], position: int, numbers: dict[str, float], rate: float, clock: Clock, data: Loader
) -> None:
    skipped = numbers.pop("skipped")
    epoch = position / data.plan.steps
    line = {**numbers, "learning_rate": rate, "epoch": epoch, **clock.lap(), "tokens": clock.total}
    _write(writers, position, {**line, "skipped": skipped} if skipped else line)
