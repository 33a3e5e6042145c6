"""What a run begins with: the step, compiled for its mesh, and the state, new or that of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.data.loader import Loader
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import messages
from jaxllm.params import ModelSpec, materialize
from jaxllm.run.folder import Run, differences
from jaxllm.train.step import StepFn
from jaxllm.types import InputError, TrainState


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything lives: shardings of the parameters that are trained, of those that are not, of the optimizer."""

    mesh: Mesh
    params: Mapping[str, Any]
    frozen: Mapping[str, Any]
    opt_state: Any
    trained: Mapping[str, jax.ShapeDtypeStruct]
    opt_shapes: Any

    @property
    def like(self) -> TrainState:
        """The state as shapes that know where they belong."""
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=meshes.replicated(self.mesh))
        opt_state = jax.tree.map(_placed, self.opt_shapes, self.opt_state)
        return TrainState(step, {n: _placed(x, self.params[n]) for n, x in self.trained.items()}, opt_state)  # type: ignore[misc]


def lay_out(model: ModelSpec, transform: optax.GradientTransformation, mesh: Mesh) -> Layout:
    """Raises InputError that lists every axis of the mesh which does not divide what it shards."""
    at = meshes.shardings(model.graphdef.abstract, mesh, model.rules, limits=model.graphdef.limits)
    trained = model.trained
    shapes = jax.eval_shape(transform.init, trained)
    return Layout(
        mesh,
        {name: x for name, x in at.items() if name in trained},
        {name: x for name, x in at.items() if name in model.frozen},
        meshes.shardings(shapes, mesh, model.rules, trained),
        trained,
        shapes,
    )


def compile_step(step: StepFn, strategy: str, mesh: Mesh, params_at: Any, opt_at: Any) -> StepFn:
    """The step under jit with shardings, or under pmap over the data axis; the state alone is donated."""
    if strategy == "pmap":
        over = jax.pmap(
            step, axis_name="data", in_axes=(None, 0, None), out_axes=None,
            donate_argnums=0, devices=list(mesh.devices.flat),
        )  # fmt: skip
        return lambda state, batch, frozen=None: over(state, batch, frozen)
    everywhere = meshes.replicated(mesh)
    at = TrainState(everywhere, params_at, opt_at)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(at, everywhere))

    def on_mesh(state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Any]:
        with jax.set_mesh(mesh):  # which attention and the chunked head cut themselves along
            return compiled(state, batch, frozen)

    return on_mesh


def begin(
    model: ModelSpec, transform: optax.GradientTransformation, layout: Layout, checkpoints: Checkpoints, run: Run,
    data: Loader, seed: int,
) -> tuple[TrainState, int, dict[str, Any]]:  # fmt: skip
    """The state to begin with, how many batches it has seen, and what was saved beside it.

    Raises InputError if the newest checkpoint is of another model, experiment or data set.
    """
    found = checkpoints.newest(layout.like)
    if found is None:
        params = materialize(model, layout.params, seed)
        opt_state = jax.jit(transform.init, out_shardings=layout.opt_state)(params)
        step = jax.device_put(jnp.zeros((), jnp.int32), meshes.replicated(layout.mesh))
        return TrainState(step, params, opt_state), 0, {}
    _, position, meta = found
    where = f"checkpoint {position} of {checkpoints.folder}"
    if differs := differences(meta.get("run", {}), run):
        raise InputError(f"{where} is of another experiment ({'; '.join(differs)}): give another --out")
    here = data.fingerprint()
    if (there := meta.get("data", here)) != here:
        raise InputError(f"{where} was trained on other data ({there} there, {here} here): give another --out")
    return found


def open_checkpoints(folder: Any, keep: int, keep_every: int) -> Checkpoints:
    """Raises InputError where nothing can be written."""
    error, opened = None, None
    try:
        opened = Checkpoints(folder, keep, keep_every)
    except Exception as why:  # each kind of store has errors of its own
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
    """The rows of this process as the step wants them."""
    if strategy == "pmap":
        return jax.tree.map(lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:]), batch)
    return meshes.put_batch(batch, mesh, rows, local)


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
