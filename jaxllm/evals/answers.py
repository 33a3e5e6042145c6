"""Evaluation of a fine-tuned model: loss and accuracy on reference answers, and scores of generated answers."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.evals.generate import Sampling, generate
from jaxllm.evals.loss import totals
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Batch, Numbers


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt as token ids and as text, and the reference answer from the data."""

    prompt: list[int]
    text: str
    answer: str


def costs(model: Any, batch: Batch) -> dict[str, jax.Array]:
    """Per row, over the tokens to learn: nats, hits (the target is the likeliest token), and the number of tokens."""

    def values(logits_NV: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        return token_logprobs(logits_NV, targets_N), jnp.argmax(logits_NV, -1) == targets_N

    (logps_BT, hits_BT), _ = over_tokens(model, batch, values)
    total = lambda x_BT: jnp.sum(x_BT * batch.weights_BT, axis=1)  # noqa: E731
    return {"nats": -total(logps_BT), "hits": total(hits_BT), "tokens": jnp.sum(batch.weights_BT, axis=1)}


def evaluate(model: Any, batches: Iterable[tuple[Batch, Any]]) -> dict[str, float]:
    """loss (nats per token to learn), perplexity and accuracy (share of these tokens that are the likeliest).

    model: a `Runner`. batches: an `EvalBatches`. Exact sums, added in float64.
    """
    found = totals(model, costs, (batch for batch, _ in batches))
    accuracy = found["hits"] / found["tokens"]
    return {"loss": found["loss"], "perplexity": found["perplexity"], "accuracy": accuracy}


def answer(
    model: Any, questions: Sequence[Question], tokenizer: Any, ends: Sequence[int], max_tokens: int
) -> list[tuple[str, bool]]:
    """A `Runner`'s greedy answer to each prompt, and whether it ended with an end token."""
    prompts = [question.prompt for question in questions]
    found = generate(model.graphdef, model.params, prompts, Sampling(), max_tokens=max_tokens, stop=ends)
    return [(tokenizer.decode(new, skip_special_tokens=True).strip(), bool(new) and new[-1] in ends) for new in found]


def score(said: Sequence[tuple[str, bool]], questions: Sequence[Question]) -> Numbers:
    """ended (share of the answers with an end token) and token_f1 (mean of `token_f1` with the reference answers)."""
    f1 = [token_f1(text, question.answer) for (text, _), question in zip(said, questions, strict=True)]
    return {"ended": sum(ended for _, ended in said) / len(said), "token_f1": sum(f1) / len(f1)}


def token_f1(a: str, b: str) -> float:
    """F1 of the words of two texts, counted with repetition (Rajpurkar et al. 2016, section 6.1); 0 if they share none.

    Words are runs of letters, digits and underscores, in lower case. Articles count too, unlike in the paper.
    """
    words = [collections.Counter(re.findall(r"\w+", text.lower())) for text in (a, b)]
    shared = (words[0] & words[1]).total()
    return 2 * shared / (words[0].total() + words[1].total()) if shared else 0.0
