"""Generates text with a decoder: one pass over the prompts, then one compiled step per token with a cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.attention import Tokens
from jaxllm.models.decoder import Cache
from jaxllm.params import GraphDef, bind
from jaxllm.types import InputError

_MULTIPLE = 64
"""Prompt lengths and cache sizes are rounded up to this, so that few of them are compiled."""


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


def generate(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling = Sampling(),
    *,
    max_tokens: int = 128,
    stop: Sequence[int] = (),
    seed: int = 0,
    on_token: Callable[[int, int, bool], bool | None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt: up to and with a stop token, `max_tokens` of them, or to the end of the context.

    params: of a Decoder, on one device or sharded. prompts: token ids, of any lengths; they are one batch.
    on_token(row, token, last) is called with each new token, and ends the row by returning True. The tokens sampled for
    a row depend on the seed and its place in the list, not on the other rows.
    Raises InputError for a prompt that is empty, leaves no room in the context, or has ids outside the vocabulary.
    """
    config = bind(graphdef, graphdef.abstract).config
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < config.max_positions:
            raise InputError(
                f"prompt {row} has {len(prompt)} tokens; the context of {config.max_positions} takes 1 to "
                f"{config.max_positions - 1} and a new one: shorten it"
            )
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            raise InputError(
                f"prompt {row} has ids outside the vocabulary of {config.vocab_size}: use its own tokenizer"
            )
    if not prompts or max_tokens < 1:
        return [[] for _ in prompts]

    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    limits = np.minimum(max_tokens, config.max_positions - lengths)
    width = _round_up(int(lengths.max()))
    slots = width + _round_up(int(limits.max()))
    tokens_BT = np.zeros((len(prompts), width), np.int32)  # padded on the left, so that all rows end together
    for row, prompt in enumerate(prompts):
        tokens_BT[row, width - len(prompt) :] = prompt
    positions_BT = np.arange(width, dtype=np.int32)[None] - (width - lengths)[:, None]
    segments_BT = (positions_BT >= 0).astype(np.int32)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(prompts)))
    read = Tokens(jnp.asarray(segments_BT), jnp.asarray(np.maximum(positions_BT, 0)))
    next_B, cache = _start(graphdef, sampling, slots, params, jnp.asarray(tokens_BT), read, keys)

    new: list[list[int]] = [[] for _ in prompts]
    going = np.ones(len(prompts), bool)
    while True:
        for row, token in enumerate(np.asarray(next_B).tolist()):
            if going[row]:
                new[row].append(token)
                going[row] = token not in stop and len(new[row]) < limits[row]
                if on_token is not None and on_token(row, token, not going[row]):
                    going[row] = False
        if not going.any():
            return new
        next_B, cache = _step(graphdef, sampling, params, cache, next_B, keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    graphdef: GraphDef,
    sampling: Sampling,
    slots: int,
    params: Any,
    tokens_BT: jax.Array,
    tokens: Tokens,
    keys: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Reads the prompts and chooses the first new token."""
    model = bind(graphdef, params)
    cache = Cache.empty(model.config, tokens_BT.shape[0], slots)
    return _next(model, sampling, cache, tokens_BT, tokens, keys)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _step(
    graphdef: GraphDef, sampling: Sampling, params: Any, cache: Cache, tokens_B: jax.Array, keys: jax.Array
) -> tuple[jax.Array, Cache]:
    """Reads the last token and chooses the next one."""
    last = jax.lax.dynamic_index_in_dim(cache.tokens.positions_BT, cache.length - 1, axis=1)
    tokens = Tokens(jnp.ones_like(last), last + 1)
    return _next(bind(graphdef, params), sampling, cache, tokens_B[:, None], tokens, keys)


def _next(
    model: Any, sampling: Sampling, cache: Cache, tokens_BT: jax.Array, tokens: Tokens, keys: jax.Array
) -> tuple[jax.Array, Cache]:
    hidden_BTD, cache = model.extend(cache, tokens_BT, tokens)
    logits_BV = model.head(hidden_BTD[:, -1])
    if not sampling.temperature:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), cache
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, cache.length)
    return jax.vmap(jax.random.categorical)(keys, restrict(logits_BV, sampling)).astype(jnp.int32), cache


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


def _round_up(n: int) -> int:
    return -(-n // _MULTIPLE) * _MULTIPLE
