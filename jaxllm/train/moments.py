"""The moments of any optimizer in fewer bits: `--moments bfloat16` or `int8`, computed in float32 all the same.

bfloat16 rounds stochastically: with a decay of 0.999 the second moment moves by less than half of a last place a step,
and would never fall. (`mu_dtype` of optax is the first moment alone, rounded to nearest.)

int8 is Dettmers et al. 2022, section 2: each block of numbers along the last axis by its largest, on a scale whose
steps grow with the number (their dynamic tree). Two things differ: a second moment is kept as its root, so that it
spans the decades that the first does, and what is not zero never becomes zero, where an update would divide by `eps`
alone. As there, arrays of fewer than 4,096 numbers keep theirs. Codes have the parameter's shape, and its sharding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.train.rounding import to_bfloat16
from jaxllm.types import check_one_of

KINDS = ("float32", "bfloat16", "int8")
BLOCK = 256
"""Numbers that share a scale, at most."""
SMALL = 4096
"""Arrays of fewer numbers stay as they are."""
DECADES = 7
SECOND = ("nu", "v", "v_row", "v_col")
"""What optimizers call a second moment."""


class Packed(NamedTuple):
    """int8, or uint8 of a root. codes: the array's shape; scales: the same but for the last axis, of blocks."""

    codes: jax.Array
    scales: jax.Array


def kept_as(kind: str, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` with its state in `kind` between steps. Raises InputError for one that is not in KINDS."""
    check_one_of("--moments", kind, KINDS)
    if kind == "float32":
        return inner
    wider = optax.with_extra_args_support(inner)

    def narrow(state: Any) -> Any:
        number = next(x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.integer)).astype(jnp.uint32)

        def one(path: Any, x: jax.Array, salt: int) -> Any:
            if x.size < SMALL or x.dtype != jnp.float32:
                return x
            if kind == "int8":
                return pack(x, root=any(getattr(key, "name", None) in SECOND for key in path))
            return to_bfloat16(x, (number << 12) + jnp.uint32(salt))

        leaves, structure = jax.tree_util.tree_flatten_with_path(state)
        return jax.tree.unflatten(structure, [one(path, x, salt) for salt, (path, x) in enumerate(leaves)])

    def wide(path: Any, x: Any) -> jax.Array:
        if isinstance(x, Packed):
            return unpack(x)
        return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        here = jax.tree_util.tree_map_with_path(wide, state, is_leaf=lambda x: isinstance(x, Packed))
        updates, after = wider.update(updates, here, params, **more)
        return updates, narrow(after)

    return optax.GradientTransformationExtraArgs(lambda params: narrow(inner.init(params)), update)


def pack(x: jax.Array, *, root: bool = False) -> Packed:
    """float32 in blocks of the last axis. root: of numbers of which none is negative, their roots."""
    size = block(x.shape[-1])
    x = jnp.sqrt(x) if root else x
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % size)])
    scales = jnp.max(jnp.abs(padded.reshape(*x.shape[:-1], -1, size)), axis=-1)
    shares = jnp.abs(x) / jnp.where(_spread(scales, x.shape[-1]) > 0, _spread(scales, x.shape[-1]), 1.0)
    first = 2 if root else 1  # parts of the lowest decade; each decade has twice as many as the one below
    decade = sum(((shares >= 10.0**-k).astype(jnp.int32) for k in range(1, DECADES)), jnp.zeros(x.shape, jnp.int32))
    parts = first << decade
    place = jnp.floor((shares * 10.0 ** (DECADES - 1 - decade).astype(jnp.float32) - 0.1) / 0.9 * parts)
    codes = parts - first + jnp.clip(place.astype(jnp.int32), 0, parts - 1) + 1
    codes = jnp.where(shares > 0, codes, 0)
    return Packed(codes.astype(jnp.uint8) if root else (jnp.sign(x).astype(jnp.int32) * codes).astype(jnp.int8), scales)


def unpack(packed: Packed) -> jax.Array:
    """float32 again; of roots, their squares."""
    codes, root = packed.codes, packed.codes.dtype == jnp.uint8
    shares = jnp.asarray(table(2 if root else 1))[jnp.abs(codes.astype(jnp.int32))]
    x = shares * _spread(packed.scales, codes.shape[-1])
    return jnp.square(x) if root else jnp.sign(codes).astype(jnp.float32) * x


def table(first: int) -> np.ndarray:
    """The shares of a block's largest that codes of 0 and more stand for: the middles of their parts, at last 1."""
    shares = [0.0]
    for decade in range(DECADES):
        parts = first << decade
        shares += [10.0 ** (decade + 1 - DECADES) * (0.1 + 0.9 * (i + 0.5) / parts) for i in range(parts)]
    return np.array([*shares[:-1], 1.0], np.float32)


def block(length: int) -> int:
    """Numbers in a block of an axis: all of a short one, else a divisor if there is one of 64 and more."""
    return length if length <= BLOCK else max((n for n in range(64, BLOCK + 1) if length % n == 0), default=BLOCK)


def _spread(scales: jax.Array, length: int) -> jax.Array:
    size = block(length)
    return jnp.repeat(scales, size, axis=-1, total_repeat_length=scales.shape[-1] * size)[..., :length]
