"""The training loop: step, log, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxllm import planning
from jaxllm.checkpoint.policy import Saver
from jaxllm.data.loader import Loader
from jaxllm.distributed import messages
from jaxllm.distributed.mesh import local_rows, make_mesh
from jaxllm.models.flops import model_flops
from jaxllm.params import ModelSpec, Rules, materialize, select, stored_as
from jaxllm.run import preemption, watchdog
from jaxllm.run.best import parse_best
from jaxllm.run.clock import Clock
from jaxllm.run.folder import Run, start_run
from jaxllm.run.lock import hold
from jaxllm.run.metrics import LOG_TO, on_terminal, open_writers, read_jsonl
from jaxllm.run.preemption import Interrupted, Terminated
from jaxllm.run.seeds import check_seed
from jaxllm.run.terminal import spinner
from jaxllm.run.usage import device_bytes, host_bytes
from jaxllm.train.evaluation import Eval, Evaluations
from jaxllm.train.forward import Runner
from jaxllm.train.log import StepLog
from jaxllm.train.nonfinite import NonfiniteReporter, NotFinite
from jaxllm.train.on_policy import OnPolicy
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.schedules import Schedule
from jaxllm.train.setup import Program, check_rows, library_run, open_checkpoints, prepare, put, restore_or_init
from jaxllm.train.step import StepFn
from jaxllm.types import LossFn, Metrics, Params, TrainState, check_one_of


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The result of a run: the model at the best step if one was asked for, else at the last."""

    model: Runner
    position: int
    """The step that the model is of."""
    log: list[dict[str, Any]]
    """metrics.jsonl."""
    compile_s: float
    """Seconds until the first step was done, 0 where none was taken."""
    used: dict[str, float | None] = dataclasses.field(default_factory=dict)
    """Seconds from the start of the process to the end of the first step (`start_s`) and processor time by then
    (`start_cpu_s`), where one was taken; the most memory held, of the host and of the fullest device (`host_bytes`,
    `device_bytes`; None where unknown), and on how many devices."""


@dataclasses.dataclass
class _Loop:
    """A run in progress: its state after `position` batches, and what each step is handed to."""

    state: TrainState
    position: int
    frozen: Params
    step: StepFn
    place: Callable[[Any], Any]
    """Puts the rows of this process on the mesh."""
    log: StepLog
    log_every: int
    evaluations: Evaluations
    saver: Saver
    schedule: Schedule | None
    steps_per_epoch: int
    owed: bool = False
    """Whether the evaluation after `position` is due and not done, which a checkpoint notes."""
    sampled: OnPolicy | None = None
    """The data, where it is sampled from the model in training."""

    @property
    def params(self) -> Params:
        return {**self.frozen, **self.state.params}

    def run(self, batches: Iterator[Any], steps: int) -> None:
        """Trains to `steps`. Where the run must stop earlier, saves and raises NotFinite, Terminated or Interrupted."""
        try:
            if self.owed:
                self.evaluate()
                if self.evaluations.best.step == self.position == 0:
                    self.save()
            while self.position < steps and not self.evaluations.best.stop:
                watchdog.step(self.position + 1)
                batch, known = self.take(batches)
                self.log.count(batch)
                self.state, metrics = self.step(self.state, self.place(batch), self.frozen)
                self.position += 1
                self.log.add(self.position, batch, {**metrics, **known})
                preemption.step_taken()
                watchdog.step_taken()

                last, stop = self.position == steps, preemption.reached()
                logged = last or self.position % self.log_every == 0
                self.owed = self.evaluations.due(self.position, last)
                save = self.saver.due(self.position, logged) or last or stop
                if logged or self.owed or save:
                    self.log.collect(self.params)
                if logged:
                    rate = None if self.schedule is None else float(self.schedule(self.state.step - 1))
                    self.log.write(self.position, rate, self.position / self.steps_per_epoch)
                if stop:  # before an evaluation, which may take longer than there is left
                    preemption.stop()
                if self.owed:
                    self.evaluate()
                if save or self.evaluations.best.stop or self.evaluations.best.step == self.position:
                    self.save()
            self.saver.checkpoints.wait()
        except (NotFinite, Terminated, Interrupted):
            self.save()
            self.saver.checkpoints.wait()
            raise

    def take(self, batches: Iterator[Any]) -> tuple[Any, Metrics]:
        """The rows of the next step, and what is logged of them; sampling does not count as time of training."""
        if self.sampled is None:
            return next(batches), {}
        if not self.sampled.begins(self.position):
            return next(batches)
        jax.block_until_ready(self.state)
        with self.log.clock.paused(), self.log.writers.state("sampling"):
            return next(batches)

    def evaluate(self) -> None:
        """Evaluates the state."""
        self.evaluations.run(self.position, self.params)
        self.owed = False

    def save(self) -> None:
        """Saves the state in the background."""
        with self.log.clock.paused(), self.log.writers.state("saving"), watchdog.paused():
            meta = {**self.log.state(), "owed": self.owed}
            if self.sampled is not None:
                meta["round"] = self.sampled.state(self.position)
            self.saver.save(self.position, self.state, meta, self.evaluations.best.step)


def fit(
    model: ModelSpec,
    *,
    loss: LossFn,
    data: Loader | OnPolicy,
    optimizer: OptimConfig | optax.GradientTransformation,
    steps: int,
    evals: Mapping[str, Eval] | None = None,
    run: Run | None = None,
    out: str | Path | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    head: tuple[str, ...] = (),
    strategy: str = "jit",
    microbatches: int = 1,
    on_nan: str = "stop",
    log_to: Sequence[str] = ("terminal",),
    log_every: int = 10,
    eval_every: int = 0,
    eval_first: bool = False,
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

    model: the parameters that it calls frozen are neither trained nor saved. optimizer: a configuration, or an optax
    transformation. data: a plan's batches, or rounds that are sampled from the model (`OnPolicy`). schedule: updates ->
    learning rate, instead of the configuration's; beside an optax transformation it is only logged (null without it).
    evals: name -> evaluation, run every `eval_every` steps and at the end (0: at the end only), and with eval_first
    before the first step, logged as name/number. run: the folder of a script's run; without one, `out` names the
    folder, by default a new one below runs/. mesh: by default all devices on `data`. rules: sharding rules instead of
    the model's. head: patterns of the parameters that `head_learning_rate` is for. on_nan: "stop" at a step that is not
    finite, or "skip" it. checkpoint_every, checkpoint_minutes: between checkpoints, beside the one at the end (0:
    none). checkpoints: their folder or bucket, by default below the run's. best: "dev/f1:max" keeps the best step,
    beside the newest `keep` and the multiples of `keep_every`. early_stopping: stop after so many evaluations without a
    better `best` (0: never). hang_timeout: seconds after which a step that does not end ends the process (0: never).
    check_replicas: compare at each checkpoint what devices hold in common. log_to: ("none",) prints nothing;
    metrics.jsonl is always written. wandb: project, entity, name and tags of the run at Weights & Biases. Signals are
    handled only in the main thread.

    Raises InputError; RunError, such as NotFinite (what was saved stands); and once the state is saved, Terminated
    (SIGTERM, or Ctrl-C in a script) or Interrupted (a KeyboardInterrupt: Ctrl-C elsewhere). In a plan (planning.py) it
    raises Planned with the step that it would compile, before it reads or writes anything.
    """
    evals = dict(evals or {})
    check_seed(seed, "seed")
    top = parse_best(best, evals, early_stopping)
    check_one_of("--on-nan", on_nan, ("stop", "skip"))
    for name in log_to:
        check_one_of("--log-to", name, LOG_TO)
    mesh = make_mesh() if mesh is None else mesh
    model = model if rules is None else dataclasses.replace(model, rules=rules)
    rows, freeze = data.plan.rows, None
    check_rows(rows, mesh, strategy, microbatches)
    again = "the same command goes on"
    if run is None and planning.current() is None:
        run = library_run(loss, optimizer, seed, steps, microbatches, out)
        again = again if out else f"fit(..., out={str(run.folder)!r}) goes on"
    if isinstance(optimizer, OptimConfig):
        if optimizer.param_dtype != "float32":
            model = stored_as(model, optimizer.param_dtype)
        freeze = select(model.trained, optimizer.freeze)
        planned = make_schedule(optimizer, steps)
        optimizer = make_optimizer(optimizer, model.trained, schedule or planned, head=head)
        schedule = schedule or jax.jit(planned)  # one program for what is logged, not one for each operation
    step, layout = prepare(
        model, loss, optimizer, mesh, seed=seed, microbatches=microbatches, strategy=strategy, freeze=freeze
    )
    flops = model_flops(model, freeze or {}, reference=_computes_reference(loss, data))
    if planning.current() is not None:
        raise planning.Planned(Program(model, loss, optimizer, step, layout, flops, data, microbatches, strategy))
    assert run is not None
    clock = Clock(mesh, flops.of)
    log_path, local = run.folder / "metrics.jsonl", local_rows(mesh, rows)

    with preemption.listening(), contextlib.ExitStack() as stack:
        stack.enter_context(hold(run.folder))
        start_run(run)
        store = open_checkpoints(checkpoints or run.folder / "checkpoints", keep, keep_every)
        stack.callback(store.close)
        with spinner("reading") if on_terminal(log_to) else contextlib.nullcontext():
            state, start, meta = restore_or_init(model, optimizer, layout, store, run, data, seed)
            frozen = materialize(model, layout.frozen, seed)
        writers = open_writers(log_to, run.folder, position=start, steps=steps, config=run.config, wandb=wandb)
        if start:
            writers.print(f"goes on from step {start} of {run.folder}, {max(0, steps - start)} to go")
        stack.callback(writers.close)
        nonfinite = NonfiniteReporter(model.graphdef, loss, model.frozen, data.plan, mesh, local, run.folder, start)
        stack.callback(nonfinite.close)
        runner = Runner(model.graphdef, {**frozen, **state.params}, mesh)
        evaluations = Evaluations(evals, eval_every, runner, top, writers, clock)
        evaluated = evaluations.recall(log_path, start, store.positions())
        constants = {"run": run.config, "data": data.fingerprint(), "seed": seed, "mesh": dict(mesh.shape)}
        loop = _Loop(
            state, start, frozen, step, lambda batch: put(batch, mesh, rows, local, strategy),
            StepLog(writers, clock, nonfinite, on_nan == "skip", meta), log_every, evaluations,
            Saver(store, mesh, checkpoint_every, checkpoint_minutes, constants, check_replicas, keep_every),
            schedule, data.plan.steps, owed=bool(evals and meta.get("owed", eval_first)) and not evaluated,
            sampled=data if isinstance(data, OnPolicy) else None,
        )  # fmt: skip

        def batches() -> Iterator[Any]:
            if isinstance(data, OnPolicy):
                policy = lambda: runner.with_params(loop.params)  # noqa: E731
                return data.rollouts(start, steps, local, policy, meta.get("round"))
            return data.iterate(start, steps, local) if start < steps else iter(())

        try:
            with watchdog.loop(hang_timeout):
                loop.run(batches(), steps)
            preemption.all_saved()
        except (Terminated, Interrupted):
            writers.close()
            if "none" not in log_to and messages.index() == 0:
                print(f"saved at step {loop.position}; {again}", file=sys.stderr, flush=True)
            raise
        position, params = loop.position, loop.state.params
        if top.step is not None and top.step != position:
            position, params = top.step, store.params(top.step, layout.like.params)
    memory = {"host_bytes": host_bytes(peak=True), "device_bytes": device_bytes(mesh.local_devices, peak=True)}
    used = {**clock.start, **memory, "devices": mesh.size}
    return Fitted(runner.with_params({**frozen, **params}), position, read_jsonl(log_path), clock.compile_s, used)


def _computes_reference(loss: LossFn, data: Loader | OnPolicy) -> bool:
    """Whether each step computes the reference too, because the batches do not have its log-probabilities."""
    if not getattr(loss, "reference", False):
        return False
    return getattr(data.build(data.plan.step(0)[:1], 1), "ref_logps_BT", None) is None
