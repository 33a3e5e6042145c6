"""A model with its parameters on a mesh, to be run on batches: what evaluations get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from jaxllm.distributed.mesh import put_batch, replicated
from jaxllm.params import GraphDef, bind
from jaxllm.types import Params

Forward = Callable[[Any, Any], Any]
"""A pure function of (model, batch) -> a tree of arrays."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs pure functions of a model. One compilation per function and batch shape, kept for the life of `compiled`."""

    graphdef: GraphDef
    params: Params
    mesh: Mesh
    compiled: dict[Forward, Any] = dataclasses.field(default_factory=dict)
    between: Callable[[], None] = lambda: None
    """Called before each batch: what it raises ends an evaluation there."""

    def map(self, fn: Forward, batches: Iterable[Any]) -> Iterator[Any]:
        """`fn(model, batch)` for each batch of numpy rows, in order, as numpy: the same on any mesh.

        The number of rows must divide by the mesh (`row_multiple`). Batch n + 1 is under way while n is looked at.
        """
        if fn not in self.compiled:
            run = lambda params, batch: fn(bind(self.graphdef, params), batch)  # noqa: E731
            self.compiled[fn] = jax.jit(run, out_shardings=replicated(self.mesh))
        ahead = None
        for batch in batches:
            self.between()
            rows = jax.tree.leaves(batch)[0].shape[0]
            with jax.set_mesh(self.mesh):
                following = self.compiled[fn](self.params, put_batch(batch, self.mesh, rows))
            if ahead is not None:
                yield jax.device_get(ahead)
            ahead = following
        if ahead is not None:
            yield jax.device_get(ahead)

    def with_params(self, params: Params) -> Runner:
        """The same model with other parameters, sharing what is compiled."""
        return dataclasses.replace(self, params=params)
