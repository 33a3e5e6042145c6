"""Enlarges the vocabulary of a decoder whose tokenizer was given more tokens than its checkpoint has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxllm.models.heads import describe_model, trunk_of, with_trunk
from jaxllm.params import ModelSpec
from jaxllm.types import Params

AXES = {"embeddings.tokens.embedding": 0, "unembed.kernel": 1}
"""The parameters with a vocabulary axis, and which axis that is."""


def grow_vocabulary(spec: ModelSpec, config: Any, vocab_size: int) -> tuple[ModelSpec, Any]:
    """The language model or reward model with a vocabulary of `vocab_size`, at least as large as it was.

    The new rows of the embedding, and columns of an untied head, are the mean of those loaded, so that a new token
    starts as an average one (Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models). A model
    that loads nothing is initialised as it would be at that size.
    """
    assert vocab_size >= trunk_of(config).vocab_size
    larger = with_trunk(config, vocab_size=vocab_size)
    described = dataclasses.replace(describe_model(larger), frozen=spec.frozen)
    if spec.load is None:
        return described, larger

    def load(shardings: Mapping[str, Sharding]) -> Params:
        # The mesh may divide the vocabulary only in its new length.
        at = {name: _whole(x, AXES[name]) if name in AXES else x for name, x in shardings.items()}
        params = spec.load_own(at)
        for name in AXES.keys() & params.keys():
            params[name] = _lengthened(params[name], AXES[name], vocab_size, shardings[name])
        return params

    return dataclasses.replace(described, load=load), larger


def _lengthened(x: jax.Array, axis: int, length: int, sharding: Sharding) -> jax.Array:
    def lengthen(x: jax.Array) -> jax.Array:
        shape = (*x.shape[:axis], length - x.shape[axis], *x.shape[axis + 1 :])
        return jnp.concatenate([x, jnp.broadcast_to(jnp.mean(x, axis, keepdims=True), shape)], axis)

    return jax.jit(lengthen, out_shardings=sharding)(x)


def _whole(sharding: Sharding, axis: int) -> Sharding:
    """The same sharding with this axis not sharded."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = [None if i == axis else part for i, part in enumerate(sharding.spec)]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
