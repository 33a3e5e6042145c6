"""The rewards that a reward model gives answers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data.preference.answers import AnswerBatches
from jaxllm.types import Answers


def per_position(model: Any, answers: Answers) -> jax.Array:
    """The head's number at every position, float32 [B, T]."""
    hidden_BTD, _ = model.hidden(answers.batch)
    return jnp.squeeze(model.head(hidden_BTD), -1)


def answer_rewards(model: Any, batches: AnswerBatches) -> np.ndarray:
    """The reward of each group's first answer under a `Runner`'s model, float32 [n]; the layout is a closed one."""
    found = np.zeros(len(batches.rows.groups), np.float32)
    for step, rewards_BT in enumerate(model.map(per_position, batches)):
        for number, values in batches.rows.take(batches.plan.step(step), rewards_BT):
            found[number] = values[0][-1]
    return found
