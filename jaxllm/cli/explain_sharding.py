"""`python -m jaxllm explain-sharding MODEL --mesh fsdp=4,tensor=2`: how a model's parameters are sharded over a mesh.

No weights are loaded, and the devices need not exist.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import jax
import optax
import tyro
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console

from jaxllm.axes import AXES
from jaxllm.distributed.mesh import shardings
from jaxllm.distributed.topology import parse_mesh
from jaxllm.models.heads import describe_model
from jaxllm.params import ModelSpec
from jaxllm.recipes.architecture import find_architecture
from jaxllm.recipes.weights import open_weights
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.types import InputError

LARGE = 0.01
"""Parameters of at least this share of the model are worth sharding."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Shows how the parameters of a model would be sharded over a mesh; needs no such devices."""

    model: Annotated[str, tyro.conf.Positional]
    """Preset, .json of an architecture, Hugging Face id or folder, or run folder."""
    mesh: str = ""
    """Devices per mesh axis, as in fsdp=4,tensor=2; by default all devices are on fsdp."""
    devices: int = 0
    """Number of devices; 0 for as many as the mesh has."""


def _spec(model: str) -> ModelSpec:
    shape = find_architecture(model)
    if shape is not None:
        return describe_model(shape)
    return open_weights(model).spec


def _devices(config: Config) -> int:
    if config.devices < 0:
        raise InputError(f"--devices {config.devices}: give a number")
    sizes = [part.partition("=")[2] for part in config.mesh.split(",") if part]
    known = [int(n) for size in sizes for n in size.split("x") if n.isdigit()]
    return config.devices or max(1, math.prod(known))


def main(config: Config) -> None:
    """Prints a line for each parameter, and the totals."""
    sizes = parse_mesh(config.mesh or "fsdp=-1", _devices(config)).sizes
    mesh = AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    spec = _spec(config.model)
    graphdef = spec.graphdef
    at = shardings(graphdef.abstract, mesh, spec.rules, limits=graphdef.limits)
    whole = sum(_bytes(x.shape, x) for x in graphdef.abstract.values())
    console = Console(soft_wrap=True, highlight=False)
    cutting = [axis for axis in AXES if sizes[axis] > 1 and axis not in ("data", "context")]
    for name, x in graphdef.abstract.items():
        used = {axis for part in at[name].spec for axis in (part if isinstance(part, tuple) else (part,))}
        held = _bytes(at[name].shard_shape(x.shape), x)
        line = f"{name:<40} {tuple(x.shape)!s:<22} {at[name].spec!s:<40} {held:>14,} bytes"
        idle = [axis for axis in cutting if axis not in used and (axis != "expert" or "experts" in name)]
        if idle and _bytes(x.shape, x) >= LARGE * whole:
            line += f"  not cut over {', '.join(idle)}"
        console.print(line, markup=False)
    transform = make_optimizer(OptimConfig(), graphdef.abstract, optax.constant_schedule(0.1))
    state = jax.eval_shape(transform.init, graphdef.abstract)
    state_at = shardings(state, mesh, spec.rules, graphdef.abstract)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(state_at), strict=True)
    optimizer = sum(_bytes(s.shard_shape(x.shape), x) for x, s in pairs)
    held = sum(_bytes(at[n].shard_shape(x.shape), x) for n, x in graphdef.abstract.items())
    devices = mesh.size
    console.print(
        f"parameters per device {held:,} bytes of {whole:,} ({held * devices / whole:.2f} times an even share)"
    )
    console.print(f"with AdamW's state    {held + optimizer:,} bytes per device, on {devices} devices")


def _bytes(shape: tuple[int, ...], x: jax.ShapeDtypeStruct) -> int:
    return math.prod(shape) * x.dtype.itemsize
