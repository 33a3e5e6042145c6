"""The model as evaluations get it: its parameters on a mesh, and a method that runs functions of it on batches."""

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
    """Runs pure functions of a model. Each compiles once per batch shape, and is kept in `compiled`."""

    graphdef: GraphDef
    params: Params
    mesh: Mesh
    compiled: dict[Forward, Any] = dataclasses.field(default_factory=dict)
    between: Callable[[], None] = lambda: None
    """Called before each batch, and may end the evaluation by raising."""

    def map(self, fn: Forward, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields `fn(model, batch)` as numpy arrays for each batch of numpy rows, in order.

        Results do not depend on the mesh. `row_multiple(mesh)` must divide the rows of a batch. Batch n + 1 is computed
        while the caller uses the result of n.
        """
        if fn not in self.compiled:

            def forward(params: Params, batch: Any) -> Any:
                return fn(bind(self.graphdef, params), batch)

            self.compiled[fn] = jax.jit(forward, out_shardings=replicated(self.mesh))
        running = None
        for batch in batches:
            self.between()
            rows = jax.tree.leaves(batch)[0].shape[0]
            with jax.set_mesh(self.mesh):
                following = self.compiled[fn](self.params, put_batch(batch, self.mesh, rows))
            if running is not None:
                yield jax.device_get(running)
            running = following
        if running is not None:
            yield jax.device_get(running)

    def with_params(self, params: Params) -> Runner:
        """The same model with other parameters, sharing the compiled functions."""
        return dataclasses.replace(self, params=params)
