"""A function of every token, over chunks of positions, computed again for its gradient."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.axes import ROWS, cuts

Compute = Callable[[Any, jax.Array], Any]
"""(hidden [B, C, ...], targets_BC) -> a tree of values [B, C]."""


def device_rows(B: int) -> int:
    """How many of B rows one device of the mesh that is set holds."""
    shards = math.prod(map(cuts, ROWS[0]))
    return B // shards if B % shards == 0 else B


def over_chunks(compute: Compute, hidden: Any, targets_BT: jax.Array, weights_BT: jax.Array, length: int) -> Any:
    """`compute(hidden, targets_BT)` for chunks of about `length` positions of all rows at a time.

    Where the weights of a chunk are all 0 nothing is computed and the values are 0. The gradient is that of `compute`,
    for the floats in `hidden` and for those that it closes over; weights get none. It is added up chunk by chunk in
    place, where automatic differentiation would carry a copy of the head through every chunk.
    """
    B, T = targets_BT.shape
    parts = cuts("context") if T % cuts("context") == 0 else 1
    count = -(-(T // parts) // max(1, length // parts))
    cut = _Cut(T, parts, count, -(-(T // parts) // count))
    leaves, tree = jax.tree.flatten(hidden)
    floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
    others = [i for i in range(len(leaves)) if i not in floats]
    example = [jax.ShapeDtypeStruct((B, parts * cut.length, *x.shape[2:]), x.dtype) for x in (*leaves, targets_BT)]
    pure, constants = jax.closure_convert(lambda *xs: compute(jax.tree.unflatten(tree, xs[:-1]), xs[-1]), *example)
    shapes, values_tree = jax.tree.flatten(jax.eval_shape(pure, *example, *constants))

    def values(constants: Any, xs: Sequence[jax.Array], rest: Sequence[jax.Array]) -> list[jax.Array]:
        """Of one chunk. xs: the floats of hidden; rest: what else is in it, and the targets."""
        order = dict(zip((*floats, *others), (*xs, *rest[:-1]), strict=True))
        return jax.tree.leaves(pure(*(order[i] for i in range(len(leaves))), rest[-1], *constants))

    @jax.custom_vjp
    def run(constants: Any, xs: Any, rest: Any, weights: jax.Array) -> list[jax.Array]:
        def body(_: None, chunk: Any) -> tuple[None, list[jax.Array]]:
            xs, rest, weights = chunk
            nothing = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
            return None, jax.lax.cond(jnp.any(weights != 0), lambda: values(constants, xs, rest), lambda: nothing)

        return cut.join(jax.lax.scan(body, None, cut.split((xs, rest, weights)))[1])

    def run_backward(saved: Any, given: Any) -> tuple[Any, Any, None, None]:
        constants, xs, rest, weights = saved

        def body(total: Any, chunk: Any) -> tuple[Any, Any]:
            xs, rest, weights, given = chunk

            def take() -> tuple[Any, Any]:
                _, pull = jax.vjp(lambda constants, xs: _only_floats(values(constants, xs, rest)), constants, xs)
                own, back = pull(given)
                return jax.tree.map(jnp.add, total, own), back

            return jax.lax.cond(jnp.any(weights != 0), take, lambda: (total, jax.tree.map(jnp.zeros_like, xs)))

        given = [g for g, shape in zip(given, shapes, strict=True) if jnp.issubdtype(shape.dtype, jnp.inexact)]
        chunks = cut.split((xs, rest, weights, given))
        total, back = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, constants), chunks)
        return total, cut.join(back), None, None

    run.defvjp(lambda *args: (run(*args), args), run_backward)
    rest = [*(leaves[i] for i in others), targets_BT]
    return jax.tree.unflatten(values_tree, run(list(constants), [leaves[i] for i in floats], rest, weights_BT))


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How T positions are cut: into `parts` over devices, and each of those into `count` chunks of `length`.

    Chunks cut the sequence, not the rows, so that rows stay sharded as they are; and each device's part of it alike.
    """

    T: int
    parts: int
    count: int
    length: int

    def split(self, tree: Any) -> Any:
        """[B, T, ...] as [count, B, parts x length, ...]; the last chunk is padded with zeros."""

        def one(x: jax.Array) -> jax.Array:
            B, own, rest = x.shape[0], self.T // self.parts, x.shape[2:]
            by_part = x.reshape(B, self.parts, own, *rest)
            padding = [(0, 0), (0, 0), (0, self.count * self.length - own)] + [(0, 0)] * len(rest)
            padded = jnp.pad(by_part, padding).reshape(B, self.parts, self.count, self.length, *rest)
            return jnp.moveaxis(padded, 2, 0).reshape(self.count, B, self.parts * self.length, *rest)

        return jax.tree.map(one, tree)

    def join(self, tree: Any) -> Any:
        """The way back."""

        def one(x: jax.Array) -> jax.Array:
            B, rest = x.shape[1], x.shape[3:]
            by_part = jnp.moveaxis(x.reshape(self.count, B, self.parts, self.length, *rest), 0, 2)
            whole = by_part.reshape(B, self.parts, self.count * self.length, *rest)
            return whole[:, :, : self.T // self.parts].reshape(B, self.T, *rest)

        return jax.tree.map(one, tree)


def _only_floats(xs: Sequence[jax.Array]) -> list[jax.Array]:
    return [x for x in xs if jnp.issubdtype(x.dtype, jnp.inexact)]
