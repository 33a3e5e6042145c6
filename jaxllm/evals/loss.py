"""Loss, perplexity and bits per byte of a language model on held-out text, as exact sums over all of it."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.data.text.rows import TextBatches
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Batch, Numbers


def costs(model: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Per row, the negative log-likelihood in nats and the number of predicted tokens, [B] each. Chunked."""
    logps_BT, _ = over_tokens(model, batch, token_logprobs)
    return -jnp.sum(logps_BT * batch.weights_BT, axis=1), jnp.sum(batch.weights_BT, axis=1)


def evaluate(model: Any, batches: TextBatches) -> Numbers:
    """loss (nats per token), perplexity (its exponential) and bits_per_byte of a `Runner`'s model.

    Sums over every token of the text, ends of documents included, added in float64. bits_per_byte divides the negative
    log-likelihood of the whole text in bits by its bytes in UTF-8, so it compares models with different tokenizers.
    """
    total = count = 0.0
    for nats_B, tokens_B in model.map(costs, batches):
        total += float(nats_B.sum(dtype="float64"))
        count += float(tokens_B.sum(dtype="float64"))
    loss = total / count
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),  # the exponential of more overflows
        "bits_per_byte": total / math.log(2) / batches.size,
    }
