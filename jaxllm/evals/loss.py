"""Loss, perplexity and bits per byte of a language model on held-out text, as exact sums over all of it."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.data.text.rows import TextBatches
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Batch, Numbers


def costs(model: Any, batch: Batch) -> dict[str, jax.Array]:
    """Per row, the negative log-likelihood in nats and the number of predicted tokens, [B] each. Chunked."""
    logps_BT, _ = over_tokens(model, batch, token_logprobs)
    return {"nats": -jnp.sum(logps_BT * batch.weights_BT, axis=1), "tokens": jnp.sum(batch.weights_BT, axis=1)}


def totals(model: Any, function: Callable[..., dict[str, jax.Array]], batches: Iterable[Batch]) -> dict[str, float]:
    """Sums over all batches, in float64, of the arrays [B] that a function such as `costs` gives of a `Runner`'s model.

    loss (nats / tokens) and perplexity (its exponential) are added.
    """
    sums: collections.defaultdict[str, float] = collections.defaultdict(float)
    for found in model.map(function, batches):
        for name, x_B in found.items():
            sums[name] += float(x_B.sum(dtype="float64"))
    loss = sums["nats"] / sums["tokens"]
    return {**sums, "loss": loss, "perplexity": math.exp(min(loss, 700.0))}  # the exponential of more overflows


NUMBERS = ("loss", "perplexity", "bits_per_byte")
"""What `evaluate` gives."""


def evaluate(model: Any, batches: TextBatches) -> Numbers:
    """loss (nats per token), perplexity (its exponential) and bits_per_byte of a `Runner`'s model.

    Sums over every token of the text, ends of documents included, added in float64. bits_per_byte divides the negative
    log-likelihood of the whole text in bits by its bytes in UTF-8, so it compares models with different tokenizers.
    """
    found = totals(model, costs, batches)
    bits_per_byte = found["nats"] / math.log(2) / batches.size
    return {"loss": found["loss"], "perplexity": found["perplexity"], "bits_per_byte": bits_per_byte}
