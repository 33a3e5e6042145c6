"""Compiles the step that `fit` would compile, from shapes alone."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxllm import planning
from jaxllm.axes import ROWS, TOKENS
from jaxllm.data.packing import Plan as Rows
from jaxllm.distributed.mesh import row_multiple
from jaxllm.plan.target import Target, compiling
from jaxllm.train.setup import OnEach, OnMesh, Program
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step with what it was compiled from."""

    program: Program
    target: Target
    batch: Any
    """The rows of a step as numpy arrays, every row the same."""
    compiled: Any
    compile_seconds: float
    text: str
    """The compiled program."""

    @property
    def mesh(self) -> Any:
        """The mesh of the step."""
        return self.program.layout.mesh


def rows_of(program: Program, plan: planning.Planning) -> Any:
    """The batch of a step: of a script's flags, one row of its data for each of --batch-size; else the data's own."""
    data, rows = program.data, program.data.plan
    if not hasattr(plan.config, "batch_size"):
        return data.batch(0)
    multiple = row_multiple(program.layout.mesh) * program.microbatches
    count = -(-plan.config.batch_size // multiple) * multiple
    if not isinstance(rows, Rows):  # of text: as long as --max-length
        return _repeated(data.build(rows.step(0)[:1], 1), count, None)
    # Packing would take somewhat longer rows to leave less of them empty; here an example fills its row.
    longest = int(np.argmax(rows.lengths))
    return _repeated(data.build([[longest]], 1), count, -(-int(rows.lengths[longest]) // 16) * 16)


def _repeated(row: Any, count: int, length: int | None) -> Any:
    """`count` rows like this one, whose arrays [B, T] are cut to `length`."""

    def repeat(path: Any, x: Any) -> np.ndarray:
        own = np.asarray(x)
        if path and str(getattr(path[-1], "name", "")).endswith("_BT"):
            own = own[:, :length]
        return np.repeat(own, count, axis=0)

    return jax.tree_util.tree_map_with_path(repeat, row)


def shapes_of(batch: Any, mesh: Any) -> Any:
    """The batch as shapes and shardings, as `put_batch` would place it."""
    context = mesh.shape["context"]

    def place(path: Any, x: np.ndarray) -> jax.ShapeDtypeStruct:
        spec, shape = ROWS, x.shape
        if context > 1 and path and str(getattr(path[-1], "name", "")).endswith("_BT"):
            spec, shape = TOKENS, (shape[0], shape[1] + -shape[1] % context)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, batch)


def lower(program: Program, batch: Any) -> Any:
    """The step lowered for its mesh. Raises InputError under pmap over several hosts."""
    assert isinstance(program.step, OnMesh | OnEach)
    layout = program.layout
    frozen = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.frozen[name])
        for name, x in program.model.graphdef.abstract.items() if name in layout.frozen
    }  # fmt: skip
    rows = shapes_of(batch, layout.mesh)
    if program.strategy == "pmap":
        n, hosts = layout.mesh.size, len({device.process_index for device in layout.mesh.devices.flat})
        if hosts > 1:
            raise InputError(f"--strategy pmap is for one process, and these {n} devices are of {hosts} hosts: use jit")
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, x.shape[0] // n, *x.shape[1:]), x.dtype), rows)
    return program.step.lower(layout.like, rows, frozen)


def compile_step(program: Program, target: Target, batch: Any) -> Step:
    """Raises InputError where the compiler says that it does not fit, and where this machine's memory is too small."""
    began = time.monotonic()
    try:
        with compiling(target):
            compiled = lower(program, batch).compile()
    except MemoryError:
        raise InputError("this machine's memory is too small to trace the step: plan on a larger one") from None
    except jax.errors.JaxRuntimeError as error:
        line = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in line:
            raise
        raise InputError(f"it does not fit {target.text}: {line.partition('RESOURCE_EXHAUSTED:')[2].strip()[:300]}; "
                         "use a larger mesh, --remat full or more --microbatches") from None  # fmt: skip
    return Step(program, target, batch, compiled, time.monotonic() - began, compiled.as_text())
