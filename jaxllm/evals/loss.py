"""How well a language model predicts held-out text: exact sums over all of it."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.data.text.rows import TextBatches
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Batch, Numbers


def costs(model: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """What each row costs in nats, and how many tokens it predicts: two arrays [B], through the chunked head."""
    logps_BT, _ = over_tokens(model, batch, token_logprobs)
    return -jnp.sum(logps_BT * batch.weights_BT, axis=1), jnp.sum(batch.weights_BT, axis=1)


def evaluate(model: Any, batches: TextBatches) -> Numbers:
    """loss (nats per token), perplexity (its exponential) and bits_per_byte of a `Runner`'s model.

    Sums over every token of the text, the ends of documents included, added in float64. bits_per_byte divides the bits
    that the whole text costs by its bytes in UTF-8, so it compares models of different tokenizers.
    """
    total = count = 0.0
    for nats_B, tokens_B in model.map(costs, batches):
        total += float(nats_B.sum(dtype="float64"))
        count += float(tokens_B.sum(dtype="float64"))
    loss = total / count
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),  # beyond, a float has no number for it
        "bits_per_byte": total / math.log(2) / batches.size,
    }
