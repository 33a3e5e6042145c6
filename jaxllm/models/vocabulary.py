"""A decoder with a larger vocabulary than its checkpoint has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxllm.models.decoder import Config, Decoder
from jaxllm.params import ModelSpec, describe
from jaxllm.types import Params

AXES = {"embeddings.tokens.embedding": 0, "unembed.kernel": 1}
"""The parameters that have an entry per token, and along which axis."""


def grown(
    spec: ModelSpec, config: Config, vocab_size: int, build: Callable[[Config, Any], Any] = Decoder
) -> tuple[ModelSpec, Config]:
    """The model with `vocab_size` entries, at least as many as it has.

    The new rows of the embedding, and columns of an untied head, are the mean of those loaded, so that a new token
    begins as an average one (Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models). A model
    that loads nothing is initialised as it would be at that size. build: what makes the model of its decoder's
    configuration and nnx.Rngs.
    """
    assert vocab_size >= config.vocab_size
    larger = dataclasses.replace(config, vocab_size=vocab_size)
    described = describe(lambda rngs: build(larger, rngs), spec.rules)
    read, frozen = spec.load, spec.frozen
    if read is None:
        return dataclasses.replace(described, frozen=frozen), larger

    def load(shardings: Mapping[str, Sharding]) -> Params:
        # The axis of tokens may divide over the mesh in its new length alone.
        at = {name: _whole(x, AXES[name]) if name in AXES else x for name, x in shardings.items()}
        params = read(at)
        for name in AXES.keys() & params.keys():
            params[name] = _lengthened(params[name], AXES[name], vocab_size, shardings[name])
        return params

    return dataclasses.replace(described, load=load, frozen=frozen), larger


def _lengthened(x: jax.Array, axis: int, length: int, sharding: Sharding) -> jax.Array:
    def lengthen(x: jax.Array) -> jax.Array:
        shape = (*x.shape[:axis], length - x.shape[axis], *x.shape[axis + 1 :])
        return jnp.concatenate([x, jnp.broadcast_to(jnp.mean(x, axis, keepdims=True), shape)], axis)

    return jax.jit(lengthen, out_shardings=sharding)(x)


def _whole(sharding: Sharding, axis: int) -> Sharding:
    """The same, this axis not cut."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = [None if i == axis else part for i, part in enumerate(sharding.spec)]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
