"""Applies a function of hidden states to chunks of positions, and recomputes each chunk in the backward pass."""

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
    """How many of B rows each device of the current mesh holds."""
    shards = math.prod(map(cuts, ROWS[0]))
    return B // shards if B % shards == 0 else B


def to_front(is_front_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A permutation of each row that takes these positions first, then the others, each in order; and its inverse.

    Places are counted: XLA:TPU takes minutes to compile a sort of long rows.
    """
    place_T = jnp.arange(is_front_BT.shape[1])
    front_BT = jnp.cumsum(is_front_BT, axis=1)  # up to each position
    back_BT = jnp.where(is_front_BT, front_BT - 1, front_BT[:, -1:] + place_T[None] - front_BT)
    invert = lambda back_T: jnp.zeros_like(place_T).at[back_T].set(place_T, unique_indices=True)  # noqa: E731
    return jax.vmap(invert)(back_BT), back_BT


def reorder(tree: Any, order_BT: jax.Array, back_BT: jax.Array) -> Any:
    """The positions of arrays [B, T, ...] in another order, a permutation of each row. back_BT: its inverse."""

    @jax.custom_vjp
    def take(x: jax.Array, order_BT: jax.Array, back_BT: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, order_BT.reshape(*order_BT.shape, *[1] * (x.ndim - 2)), axis=1)

    # The gradient takes the other way, where automatic differentiation would add up what a gather might repeat.
    take.defvjp(
        lambda x, order, back: (take(x, order, back), (order, back)),
        lambda kept, dy: (take(dy, *kept[::-1]), None, None),
    )
    return jax.tree.map(lambda x: take(x, order_BT, back_BT), tree)


def over_chunks(compute: Compute, hidden: Any, targets_BT: jax.Array, weights_BT: jax.Array, length: int) -> Any:
    """`compute(hidden, targets_BT)` for chunks of about `length` positions of all rows at a time.

    Chunks whose weights are all 0 are skipped, and their values are 0. The gradient is that of `compute`, for the
    floats in `hidden` and for those that it closes over; weights get none. It is accumulated in place chunk by chunk,
    where automatic differentiation would carry a copy of the head through every chunk.
    """
    if length >= targets_BT.shape[1]:
        return compute(hidden, targets_BT)
    chunked = _Chunked.of(compute, hidden, targets_BT, length)

    @jax.custom_vjp
    def run(constants: Any, floats: Any, rest: Any, weights: jax.Array) -> list[jax.Array]:
        return chunked.values(constants, floats, rest, weights)

    def backward(saved: Any, given: Any) -> tuple[Any, Any, None, None]:
        constants, floats, rest, weights = saved
        _, *own = chunked.pull(constants, floats, rest, weights, given)
        return *own, None, None

    run.defvjp(lambda *args: (run(*args), args), backward)
    return jax.tree.unflatten(chunked.out, run(*chunked.arguments, weights_BT))


def sum_over_chunks(
    compute: Compute, hidden: Any, targets_BT: jax.Array, weights_BT: jax.Array, length: int
) -> jax.Array:
    """The sum of `weights_BT * compute(hidden, targets_BT)`, whose `compute` gives one float [B, C].

    As `over_chunks`, but the gradient of a sum is known up to one factor in the forward pass already, so it is computed
    while a chunk's logits exist: three matmuls with the head instead of four.
    """
    if length >= targets_BT.shape[1]:
        return jnp.sum(compute(hidden, targets_BT) * weights_BT)
    chunked = _Chunked.of(compute, hidden, targets_BT, length)

    @jax.custom_vjp
    def run(constants: Any, floats: Any, rest: Any, weights: jax.Array) -> jax.Array:
        [values_BT] = chunked.values(constants, floats, rest, weights)
        return jnp.sum(values_BT * weights)

    def forward(constants: Any, floats: Any, rest: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
        [values_BT], *own = chunked.pull(constants, floats, rest, weights, [weights])
        return jnp.sum(values_BT * weights), own

    def backward(own: Any, given: jax.Array) -> tuple[Any, Any, None, None]:
        return *jax.tree.map(lambda x: x * given.astype(x.dtype), own), None, None

    run.defvjp(forward, backward)
    return run(*chunked.arguments, weights_BT)


@dataclasses.dataclass(frozen=True)
class _Chunked:
    """A `compute` in chunks.

    `arguments` are the arrays that it closes over, the floats of `hidden`, and the other leaves of `hidden` with the
    targets; `at` is the place of each leaf of `hidden` among the last two.
    """

    pure: Callable[..., Any]
    cut: _Cut
    arguments: tuple[list[Any], list[Any], list[Any]]
    at: list[int]
    hidden: Any
    shapes: list[Any]
    out: Any

    @classmethod
    def of(cls, compute: Compute, hidden: Any, targets_BT: jax.Array, length: int) -> _Chunked:
        """With chunks of about `length` positions."""
        B, T = targets_BT.shape
        parts = cuts("context") if T % cuts("context") == 0 else 1
        count = -(-(T // parts) // max(1, length // parts))
        cut = _Cut(T, parts, count, -(-(T // parts) // count))
        leaves, tree = jax.tree.flatten(hidden)
        order = sorted(range(len(leaves)), key=lambda i: not _is_float(leaves[i]))
        floats = _floats(leaves)
        rest = [*(leaves[i] for i in order[len(floats) :]), targets_BT]
        example = [jax.ShapeDtypeStruct((B, parts * cut.length, *x.shape[2:]), x.dtype) for x in (*leaves, targets_BT)]
        flat = lambda *xs: compute(jax.tree.unflatten(tree, xs[:-1]), xs[-1])  # noqa: E731
        pure, constants = jax.closure_convert(flat, *example)
        shapes, out = jax.tree.flatten(jax.eval_shape(pure, *example, *constants))
        at = [order.index(i) for i in range(len(leaves))]
        return cls(pure, cut, (list(constants), floats, rest), at, tree, shapes, out)

    def chunk(self, constants: Any, floats: Any, rest: Any) -> list[jax.Array]:
        """The values of one chunk."""
        leaves = [*floats, *rest]
        return jax.tree.leaves(self.pure(*(leaves[i] for i in self.at), rest[-1], *constants))

    def nothing(self) -> list[jax.Array]:
        """The values of a chunk that is skipped."""
        return [jnp.zeros(shape.shape, shape.dtype) for shape in self.shapes]

    def values(self, constants: Any, floats: Any, rest: Any, weights: jax.Array) -> list[jax.Array]:
        """The values of all positions."""

        def body(_: None, chunk: Any) -> tuple[None, list[jax.Array]]:
            floats, rest, weights = chunk
            return None, jax.lax.cond(jnp.any(weights != 0), lambda: self.chunk(constants, floats, rest), self.nothing)

        return self.cut.join(jax.lax.scan(body, None, self.cut.split((floats, rest, weights)))[1])

    def pull(self, constants: Any, floats: Any, rest: Any, weights: jax.Array, given: Any) -> tuple[Any, Any, Any]:
        """The float values of all positions, and the gradients of constants and floats for given cotangents."""

        def body(total: Any, chunk: Any) -> tuple[Any, Any]:
            floats, rest, weights, given = chunk

            def take() -> tuple[Any, Any]:
                values, pull = jax.vjp(lambda cs, xs: _floats(self.chunk(cs, xs, rest)), constants, floats)
                own, back = pull(given)
                return jax.tree.map(jnp.add, total, own), (values, back)

            def leave() -> tuple[Any, Any]:
                return total, (_floats(self.nothing()), jax.tree.map(jnp.zeros_like, floats))

            return jax.lax.cond(jnp.any(weights != 0), take, leave)

        chunks = self.cut.split((floats, rest, weights, _floats(given)))
        total, (values, back) = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, constants), chunks)
        return self.cut.join(values), total, self.cut.join(back)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How T positions are cut: into `parts` over devices, and each of those into `count` chunks of `length`.

    Chunks cut the sequence and not the rows, so that rows stay sharded. Each device's part is cut in the same way.
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
        """The inverse of `split`."""

        def one(x: jax.Array) -> jax.Array:
            B, rest = x.shape[1], x.shape[3:]
            by_part = jnp.moveaxis(x.reshape(self.count, B, self.parts, self.length, *rest), 0, 2)
            whole = by_part.reshape(B, self.parts, self.count * self.length, *rest)
            return whole[:, :, : self.T // self.parts].reshape(B, self.T, *rest)

        return jax.tree.map(one, tree)


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def _floats(xs: Sequence[Any]) -> list[Any]:
    return [x for x in xs if _is_float(x)]
