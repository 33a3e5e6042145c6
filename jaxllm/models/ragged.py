"""Rows times the matrix of their group, whose gradient TPUs' compiler lacks a kernel for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm import planning

ROWS, LEFT, RIGHT = 512, 2048, 1024
"""Most rows, columns of x and columns of y at a time on a core: with a sum [LEFT, RIGHT] 24 MiB of its own memory."""
VMEM_BYTES = 48 * 2**20


def ragged_dot(x_MD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """`jax.lax.ragged_dot`: the first sizes[0] rows times kernel[0], the next sizes[1] times kernel[1], and so on.

    XLA:TPU has a kernel for the product and for the gradient of x. For that of `kernel` it multiplies all rows once for
    each group, with zeros in place of those of other groups: on TPUs `gradient` is called instead.
    """
    if planning.platform() != "tpu":
        return jax.lax.ragged_dot(x_MD, kernel_EDF, sizes_E)
    if more := sorted(jax.typeof(x_MD).mat.varying - jax.typeof(kernel_EDF).mat.varying):
        kernel_EDF = jax.lax.pcast(kernel_EDF, tuple(more), to="varying")
    return _product(x_MD, kernel_EDF, sizes_E)


@jax.custom_vjp
def _product(x_MD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot(x_MD, kernel_EDF, sizes_E)


def _backward(saved: tuple[jax.Array, ...], dy_MF: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_MD, kernel_EDF, sizes_E = saved
    dx_MD = jax.lax.ragged_dot(dy_MF, kernel_EDF.swapaxes(1, 2), sizes_E)
    return dx_MD, gradient(x_MD, dy_MF, sizes_E, kernel_EDF.dtype), None


_product.defvjp(lambda *given: (_product(*given), given), _backward)


def gradient(x_MD: jax.Array, dy_MF: jax.Array, sizes_E: jax.Array, dtype: Any, interpret: bool = False) -> jax.Array:
    """Of each group, x^T dy over its rows: [E, D, F] in `dtype`, summed in float32.

    A visit is of a tile of rows by a group that has some of them, in order; a group without rows makes one, to write
    zeros. A tile is visited again where groups meet within it, so there are at most E - 1 visits more than tiles.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    (M, D), F, E = x_MD.shape, dy_MF.shape[1], len(sizes_E)
    rows, left, right = min(M, ROWS), min(D, LEFT), min(F, RIGHT)
    visits = pl.cdiv(M, rows) + E - 1
    given = visits_of(sizes_E, rows, visits, pl.cdiv(M, rows))

    def kernel(group_V: Any, tile_V: Any, low_V: Any, high_V: Any, x: Any, dy: Any, out: Any, total: Any) -> None:
        v = pl.program_id(2)
        group, low, high = group_V[v], low_V[v], high_V[v]
        own = lambda y: mask(y[...], low, high)  # noqa: E731

        def add(x: jax.Array, dy: jax.Array) -> None:
            total[...] += jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

        @pl.when((v == 0) | (group != group_V[jnp.maximum(v - 1, 0)]))
        def _begin() -> None:
            total[...] = jnp.zeros_like(total)

        @pl.when(high - low == rows)
        def _whole() -> None:
            add(x[...], dy[...])

        @pl.when((low < high) & (high - low < rows))
        def _part() -> None:
            add(own(x), own(dy))

        @pl.when((v == visits - 1) | (group != group_V[jnp.minimum(v + 1, visits - 1)]))
        def _end() -> None:
            out[...] = total[...].astype(out.dtype)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(given),
        grid=(pl.cdiv(F, right), pl.cdiv(D, left), visits),
        in_specs=[pl.BlockSpec((rows, left), lambda j, i, v, group_V, tile_V, *_: (tile_V[v], i)),
                  pl.BlockSpec((rows, right), lambda j, i, v, group_V, tile_V, *_: (tile_V[v], j))],
        out_specs=pl.BlockSpec((None, left, right), lambda j, i, v, group_V, *_: (group_V[v], i, j)),
        scratch_shapes=[pltpu.VMEM((left, right), jnp.float32)],
    )  # fmt: skip
    run = pl.pallas_call(
        kernel, jax.ShapeDtypeStruct((E, D, F), dtype, manual_axis_type=jax.typeof(x_MD).mat), grid_spec=grid,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"),
                                             vmem_limit_bytes=VMEM_BYTES),
        cost_estimate=pl.CostEstimate(flops=2 * M * D * F, bytes_accessed=2 * (M * D + M * F + E * D * F),
                                      transcendentals=0),
        interpret=interpret, name="ragged_dot_gradient",
    )  # fmt: skip
    return run(*given, x_MD, dy_MF)


def mask(y_MN: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """y with zeros outside of rows low to high - 1. A TPU compares and selects in 32 bits."""
    row_MN = jax.lax.broadcasted_iota(jnp.int32, y_MN.shape, 0)
    return jnp.where((row_MN >= low) & (row_MN < high), y_MN.astype(jnp.float32), 0.0).astype(y_MN.dtype)


def visits_of(sizes_E: jax.Array, rows: int, visits: int, tiles: int) -> tuple[jax.Array, ...]:
    """Of each visit, int32 [visits]: its group, its tile of `rows`, and which rows of the tile are its, from and to."""
    end_E = jnp.cumsum(sizes_E)
    start_E = end_E - sizes_E
    count_E = jnp.where(sizes_E > 0, (end_E - 1) // rows - start_E // rows + 1, 1)
    after_E = jnp.cumsum(count_E)
    v_V = jnp.arange(visits)
    group_V = jnp.minimum(jnp.sum(v_V[:, None] >= after_E[None], axis=1), len(sizes_E) - 1)
    within_V = jnp.minimum(v_V, after_E[-1] - 1) - (after_E - count_E)[group_V]
    tile_V = jnp.minimum(start_E[group_V] // rows + within_V, tiles - 1)
    low_V, high_V = (jnp.clip(at_E[group_V] - tile_V * rows, 0, rows) for at_E in (start_E, end_E))
    high_V = jnp.where(v_V < after_E[-1], high_V, low_V)  # visits too many do nothing
    return tuple(x.astype(jnp.int32) for x in (group_V, tile_V, low_V, high_V))
