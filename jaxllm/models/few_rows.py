"""Products of few rows with large kernels, as each step of decoding has them, on a CPU.

XLA:CPU multiplies 4 to 32 rows with a kernel up to twice as fast where the kernel is its left operand and lies by
output features (experiments/LOG.md). A loop that transposes its kernels once, before it begins, has them so in each
step.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm import planning
from jaxllm.axes import cuts
from jaxllm.models.layers import Dense

_FEW = range(4, 33)


def few(rows: int) -> bool:
    """Whether this many rows are multiplied faster so: on a CPU, with kernels that are whole on each device."""
    return rows in _FEW and planning.platform() == "cpu" and cuts("fsdp") == cuts("tensor") == 1


class Transposed(nnx.Module):
    """A Dense with its kernel as (d_out, d_in)."""

    def __init__(self, kernel_FD: jax.Array, bias: nnx.Param[jax.Array] | None = None):
        self.kernel, self.bias = nnx.Param(kernel_FD), bias

    def __call__(self, x: jax.Array) -> jax.Array:
        x_ND = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y_FN = jax.lax.dot_general(self.kernel[...].astype(x.dtype), x_ND, (((1,), (1,)), ((), ())))
        y_FN = jax.lax.optimization_barrier(y_FN)  # or XLA would swap the operands, to have no transposition
        y = y_FN.T.reshape(*x.shape[:-1], len(y_FN))
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


def transposed(layer: nnx.Module) -> Any:
    """A Dense as a `Transposed`; of another module each Dense inside, in place."""
    if isinstance(layer, Dense):
        return Transposed(layer.kernel[...].T, layer.bias)
    for part in [part for _, part in nnx.iter_modules(layer)]:
        for name, inner in list(vars(part).items()):
            if isinstance(inner, Dense):
                setattr(part, name, transposed(inner))
    return layer
