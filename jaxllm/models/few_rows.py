"""Products of few rows with large kernels, as each step of decoding has them, on a CPU.

XLA:CPU multiplies 4 to 32 rows with a kernel up to twice as fast where the kernel is its left operand and lies by
output features (experiments/LOG.md); a loop that turns its kernels once, before it begins, has them so in each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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


class Turned(nnx.Module):
    """A Dense with its kernel as (d_out, d_in)."""

    def __init__(self, kernel_FD: jax.Array, bias: nnx.Param[jax.Array] | None = None):
        self.kernel, self.bias = nnx.Param(kernel_FD), bias

    def __call__(self, x: jax.Array) -> jax.Array:
        x_ND = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y_FN = jax.lax.dot_general(self.kernel[...].astype(x.dtype), x_ND, (((1,), (1,)), ((), ())))
        y_FN = jax.lax.optimization_barrier(y_FN)  # or XLA would swap the operands, to have no transposition
        y = y_FN.T.reshape(*x.shape[:-1], len(y_FN))
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


def turn(decoder: Any, blocks: Iterable[nnx.Module]) -> None:
    """Replaces the head of a decoder, and each Dense inside of its blocks taken apart, by a `Turned`."""
    table = decoder.embeddings.tokens.embedding[...]
    decoder.unembed = nnx.data(Turned(table if decoder.unembed is None else decoder.unembed.kernel[...].T))
    for part in [part for block in blocks for _, part in nnx.iter_modules(block)]:
        for name, layer in list(vars(part).items()):
            if isinstance(layer, Dense):
                setattr(part, name, Turned(layer.kernel[...].T, layer.bias))
