"""How the next token is chosen from the logits: greedily, or by chance at a temperature."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxllm.losses.tokens import token_logprobs
from jaxllm.types import InputError

_BLOCK = 256
"""Tokens of the vocabulary that `draw` sums up first, at most."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities first sum to this (Holtzman et al. 2019)."""

    def __post_init__(self) -> None:
        for name, fits, rule in (
            ("temperature", self.temperature >= 0, "must be 0 or more"),
            ("top_k", self.top_k >= 0, "must be 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
        ):
            if not fits:
                raise InputError(f"sampling {name}={getattr(self, name)} {rule}")


GREEDY, BY_CHANCE = Sampling(), Sampling(1.0)
"""The likeliest token, and one drawn by the model's own probabilities."""


def choose(logits_BV: jax.Array, sampling: Sampling, uniform_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens int32 [B], and their log-probabilities float32 [B] in nats, at the temperature.

    They are of the whole vocabulary: top_k and top_p decide what is drawn, but not its log-probability. A greedy
    token's is at temperature 1. Each row's token depends on its own logits and random numbers alone.
    """
    if not sampling.temperature:
        tokens_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return tokens_B, token_logprobs(logits_BV, tokens_B)
    logits_BV -= jnp.max(logits_BV, axis=-1, keepdims=True)  # so that the likeliest has 0 at any temperature
    tokens_B = draw(restrict(logits_BV, sampling), uniform_B2)
    return tokens_B, token_logprobs(logits_BV / sampling.temperature, tokens_B)


def draw(logits_BV: jax.Array, uniform_B2: jax.Array) -> jax.Array:
    """A token of each row by its probability, int32 [B]: first a block of the vocabulary, then a token of the block.

    uniform_B2: two random numbers from 0 to below 1 for each row. `jax.random.categorical` takes one for each token of
    the vocabulary, which on a CPU costs more than a small model.
    """
    weights_BV = jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True))
    block = min(_BLOCK, weights_BV.shape[1])
    weights_BV = jnp.pad(weights_BV, [(0, 0), (0, -weights_BV.shape[1] % block)])
    weights_BnW = weights_BV.reshape(weights_BV.shape[0], -1, block)
    block_B = _invert(jnp.sum(weights_BnW, axis=-1), uniform_B2[:, 0])
    within_BW = jnp.take_along_axis(weights_BnW, block_B[:, None, None], axis=1)[:, 0]
    return block_B * block + _invert(within_BW, uniform_B2[:, 1])


def _invert(weights_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first place where the cumulative weight exceeds this share of the whole; its own weight is above 0."""
    sums_BN = jnp.cumsum(weights_BN, axis=-1)
    place_B = jnp.sum(sums_BN <= uniform_B[:, None] * sums_BN[:, -1:], axis=-1)
    last_B = weights_BN.shape[1] - 1 - jnp.argmax(weights_BN[:, ::-1] > 0, axis=-1)  # where the product is rounded up
    return jnp.minimum(place_B, last_B).astype(jnp.int32)


def restrict(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits at the temperature (above 0), and minus infinity for tokens that top_k, then top_p, rule out."""
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k:
        top_Bk = jax.lax.top_k(logits_BV, min(sampling.top_k, logits_BV.shape[-1]))[0]
        logits_BV = jnp.where(logits_BV < top_Bk[:, -1:], -jnp.inf, logits_BV)
    if sampling.top_p < 1:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
        within = jnp.cumsum(probs_BV, axis=-1) - probs_BV < sampling.top_p
        lowest_B1 = jnp.min(jnp.where(within, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < lowest_B1, -jnp.inf, logits_BV)
    return logits_BV
