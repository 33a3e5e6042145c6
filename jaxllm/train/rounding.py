"""Stochastic rounding to bfloat16, by which steps smaller than half of a last place add up instead of being lost.

Up or down with probabilities that make the expectation the number itself (Gupta et al. 2015, section 2). The noise is a
hash of a seed and of the place in the array: the same however the array is sharded, and a fraction of threefry's cost.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.types import Params


def widened(params: Params) -> Params:
    """What is bfloat16 as float32, in which gradients, moments and updates are computed."""
    return {name: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for name, x in params.items()}


def moved(params: Params, updates: Params, seed: jax.Array) -> Params:
    """The sums in the types of the parameters, bfloat16 rounded stochastically. seed: a uint32, of the step."""

    def one(name: str, x: jax.Array, update: Any) -> jax.Array:
        if x.dtype == jnp.bfloat16:
            return to_bfloat16(x.astype(jnp.float32) + update, seed + jnp.uint32(zlib.crc32(name.encode())))
        return (x + update).astype(x.dtype)

    return {name: one(name, x, updates[name]) for name, x in params.items()}


def to_bfloat16(x: jax.Array, seed: jax.Array) -> jax.Array:
    """Rounds float32 up or down by chance; what bfloat16 can hold, and what is not finite, stays as it is."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    cut = (bits + (_noise(x.shape, seed) >> 16)) & jnp.uint32(0xFFFF0000)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(cut, jnp.float32), x).astype(jnp.bfloat16)


def _noise(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """32 bits for each place: the finalizer of MurmurHash3 over the seed and the place."""
    place = jnp.full(shape, seed, jnp.uint32) if shape else seed
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) * 0x9E3779B9 % 2**32  # neighbours far apart
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        place = (place ^ (place >> shift)) * jnp.uint32(factor)
    return place ^ (place >> 16)
