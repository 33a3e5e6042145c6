"""The compiled train step, the layout of its arrays on a mesh, and the state that a run starts from.

`prepare` and `init_state` are all that a training loop of your own needs:

    step, layout = prepare(model, loss, optax.adamw(1e-4), mesh)
    state = init_state(model, optax.adamw(1e-4), layout)
    for batch in batches:
        state, metrics = step(state, put_batch(batch, mesh, rows))
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxllm import planning
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.data.loader import Loader
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import messages
from jaxllm.models.flops import ModelFlops
from jaxllm.params import ModelSpec, materialize, strongly_typed
from jaxllm.run.folder import Run, differences, open_run, operational
from jaxllm.run.inputs import changed_files, changes
from jaxllm.train.on_policy import OnPolicy
from jaxllm.train.optim import OptimConfig
from jaxllm.train.rounding import widened
from jaxllm.train.step import StepFn, make_train_step
from jaxllm.types import InputError, LossFn, TrainState


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sharding of every array of a run: trained parameters, frozen parameters, optimizer state."""

    mesh: Mesh
    params: Mapping[str, Any]
    frozen: Mapping[str, Any]
    opt_state: Any
    trained: Mapping[str, jax.ShapeDtypeStruct]
    opt_shapes: Any

    @property
    def like(self) -> TrainState:
        """The state as shapes, dtypes and shardings."""
        shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), dict(self.trained), self.opt_shapes)  # type: ignore[arg-type]
        shardings = TrainState(meshes.replicated(self.mesh), dict(self.params), self.opt_state)
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings)


def lay_out(model: ModelSpec, transform: optax.GradientTransformation, mesh: Mesh) -> Layout:
    """The layout by the model's sharding rules.

    Raises InputError that lists every axis of the mesh which does not divide what it shards.
    """
    at = meshes.shardings(model.graphdef.abstract, mesh, model.rules, limits=model.graphdef.limits)
    trained = model.trained
    shapes = jax.eval_shape(lambda params: transform.init(widened(params)), trained)
    return Layout(
        mesh,
        {name: x for name, x in at.items() if name in trained},
        {name: x for name, x in at.items() if name in model.frozen},
        meshes.shardings(shapes, mesh, model.rules, trained),
        trained,
        shapes,
    )


def prepare(
    model: ModelSpec, loss: LossFn, transform: optax.GradientTransformation, mesh: Mesh, *, seed: int = 0,
    microbatches: int = 1, strategy: str = "jit", freeze: Mapping[str, slice] | None = None,
) -> tuple[StepFn, Layout]:  # fmt: skip
    """The train step of a model, compiled for a mesh at its first call, and the layout of its arrays.

    step(state, batch, frozen=None) -> (state, metrics). state: a TrainState laid out as `layout.like`, such as
    `init_state` gives; it is donated, so that only the new one can be used afterwards. batch: a Batch, Answers or
    Rollouts of global arrays with a leading row axis, as `put_batch` places them, that `row_multiple(mesh)` times
    `microbatches` divides. Under pmap (one process, a mesh with only the `data` axis) the leading axes are [devices,
    rows per device] instead. frozen: the arrays that `model.frozen` names, in `layout.frozen`. metrics: replicated
    float32 scalars, as in `make_train_step`, which also explains `freeze`. Jitting `make_train_step` yourself would
    lose the sharding of activations: they need the mesh to be set, and the state its output shardings. Raises
    InputError.
    """
    axis = "data" if strategy == "pmap" else None
    step = make_train_step(
        model.graphdef, loss, transform, seed=seed, microbatches=microbatches, axis=axis, freeze=freeze
    )
    layout = lay_out(model, transform, mesh)
    return compile_step(step, strategy, mesh, layout.params, layout.opt_state), layout


def init_state(model: ModelSpec, transform: optax.GradientTransformation, layout: Layout, seed: int = 0) -> TrainState:
    """The state before the first step: parameters loaded or initialised, each array created in its own sharding."""
    params = materialize(model, layout.params, seed)
    init = lambda params: strongly_typed(transform.init(widened(params)))  # noqa: E731
    opt_state = jax.jit(init, out_shardings=layout.opt_state)(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), meshes.replicated(layout.mesh)), params, opt_state)


def compile_step(step: StepFn, strategy: str, mesh: Mesh, params_at: Any, opt_at: Any) -> StepFn:
    """The step under jit with shardings, or under pmap over the data axis; only the state is donated."""
    if strategy == "pmap":
        return OnEach(jax.pmap(
            step, axis_name="data", in_axes=(None, 0, None), out_axes=None,
            donate_argnums=0, devices=list(mesh.devices.flat),
        ))  # fmt: skip
    everywhere = meshes.replicated(mesh)
    at = TrainState(everywhere, params_at, opt_at)
    return OnMesh(jax.jit(step, donate_argnums=0, out_shardings=(at, everywhere)), mesh)


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A jitted step with its mesh set, which attention and the chunked head read to shard what they compute."""

    jitted: Any
    mesh: Mesh

    def __call__(self, state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Any]:
        planning.refuse_a_run("makes a step")
        with jax.set_mesh(self.mesh):
            return self.jitted(state, batch, frozen)

    def lower(self, state: TrainState, batch: Any, frozen: Any = None) -> jax.stages.Lowered:
        """The step for arguments given as shapes with shardings, to be compiled."""
        with jax.set_mesh(self.mesh):
            return self.jitted.lower(state, batch, frozen)


@dataclasses.dataclass(frozen=True)
class OnEach:
    """A step under pmap, whose batch has the leading axes [devices, rows per device]."""

    mapped: Any

    def __call__(self, state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Any]:
        planning.refuse_a_run("makes a step")
        return self.mapped(state, batch, frozen)

    def lower(self, state: TrainState, batch: Any, frozen: Any = None) -> jax.stages.Lowered:
        """The step for arguments given as shapes, to be compiled."""
        # pmap has a mesh of its own, in whose shardings it states what each device holds.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch, frozen))
        return self.mapped.lower(*shapes)


@dataclasses.dataclass(frozen=True)
class Program:
    """All that `fit` compiles a step from: what a plan takes in place of a run."""

    model: ModelSpec
    loss: LossFn
    optimizer: optax.GradientTransformation
    step: StepFn
    layout: Layout
    flops: ModelFlops
    data: Loader | OnPolicy
    microbatches: int
    strategy: str


def restore_or_init(
    model: ModelSpec, transform: optax.GradientTransformation, layout: Layout, checkpoints: Checkpoints, run: Run,
    data: Loader | OnPolicy, seed: int,
) -> tuple[TrainState, int, dict[str, Any]]:  # fmt: skip
    """The state to start from, how many batches it has seen, and the meta data that was saved with it.

    Raises InputError if the newest checkpoint is of another model, experiment or data set.
    """
    found = checkpoints.newest(layout.like)
    if found is None:
        return init_state(model, transform, layout, seed), 0, {}
    _, position, meta = found
    where = f"checkpoint {position} of {checkpoints.folder}"
    if differs := differences(meta.get("run", {}), run):
        raise InputError(f"{where} is of another experiment ({'; '.join(differs)}): give another --out")
    here, before = data.fingerprint(), meta.get("run", {})
    changed = changed_files(before, run.config)  # of which the fingerprint, of a few rows, may not know
    if changed or meta.get("data", here) != here:
        why = changes(before, run.config)
        raise InputError(f"{where} was trained on other data ({why}): undo the change, or give another --out")
    return found


@dataclasses.dataclass(frozen=True)
class _Config:
    """config.json of a run that no script describes."""

    loss: str
    optimizer: dict[str, Any] | str
    seed: int
    steps: int
    microbatches: int = operational(1)


def library_run(
    loss: LossFn, optimizer: OptimConfig | optax.GradientTransformation, seed: int, steps: int, microbatches: int,
    out: str | Path | None,
) -> Run:  # fmt: skip
    """The run of a call of `fit` that no script describes, in `out` or in a new folder below runs/."""
    name = getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))
    named = " ".join([name, *(f"{key}={x}" for key, x in getattr(loss, "arguments", {}).items())])
    described: dict[str, Any] | str = "an optax transformation"
    if isinstance(optimizer, OptimConfig):
        described = dataclasses.asdict(optimizer)
    return open_run("fit", _Config(named, described, seed, steps, microbatches), str(out or _new_folder()))


def _new_folder() -> str:
    """A folder below runs/ that does not exist yet, the same in all processes."""
    stamp = time.strftime("runs/fit-%Y%m%d-%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}-{n}" for n in itertools.count(2)))
    return messages.broadcast(next(name for name in names if not Path(name).exists()))


def open_checkpoints(folder: Any, keep: int, keep_every: int) -> Checkpoints:
    """Raises InputError where nothing can be written."""
    error, opened = None, None
    try:
        opened = Checkpoints(folder, keep, keep_every)
    except Exception as why:  # each kind of file system raises other classes
        error = f"checkpoints cannot be kept in {folder} ({type(why).__name__}: {why})"
    if error := messages.agree(error):
        raise InputError(error)
    assert opened is not None
    return opened


def check_rows(rows: int, mesh: Mesh, strategy: str, microbatches: int) -> None:
    """Raises InputError where the rows of a batch, the strategy and the mesh do not go together."""
    if strategy not in ("jit", "pmap"):
        raise InputError(f"--strategy {strategy}: give jit or pmap")
    if strategy == "pmap" and mesh.shape["data"] != mesh.size:
        raise InputError("--strategy pmap keeps a copy of the model per device: use a mesh of data alone, or jit")
    if strategy == "pmap" and messages.count() > 1:
        raise InputError("--strategy pmap is for one process: use jit")
    if rows % (meshes.row_multiple(mesh) * microbatches):
        raise InputError(
            f"{rows} rows a step do not divide over {meshes.row_multiple(mesh)} devices x {microbatches} microbatches: "
            "change --batch-size, --microbatches or --mesh"
        )


def put(batch: Any, mesh: Mesh, rows: int, local: Sequence[int], strategy: str) -> Any:
    """The rows of this process as the step takes them."""
    if strategy == "pmap":
        return jax.tree.map(lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:]), batch)
    return meshes.put_batch(batch, mesh, rows, local)
