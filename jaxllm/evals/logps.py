"""The log-probabilities of answers under a model, which a preference loss reads of its reference."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxllm.data.preference.answers import AnswerBatches, Logps
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Answers


def per_token(model: Any, answers: Answers) -> jax.Array:
    """log p of every target that is trained on, in nats, [B, T]; 0 elsewhere. The head is chunked."""
    logps_BT, _ = over_tokens(model, answers.batch, token_logprobs)
    return logps_BT * (answers.batch.weights_BT != 0)


def answer_logps(model: Any, batches: AnswerBatches) -> list[Logps]:
    """The log-probabilities of every answer under a `Runner`'s model, per token, in the order of the groups."""
    found: dict[int, Logps] = {}
    for step, values_BT in enumerate(model.map(per_token, batches)):
        for number, logps in batches.rows.take(batches.plan.step(step), np.asarray(values_BT, np.float32)):
            found[number] = logps
    return [found[number] for number in range(len(batches.rows.groups))]
