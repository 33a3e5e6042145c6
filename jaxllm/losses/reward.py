"""Losses of a reward model, whose head gives one number per token."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import NonNegative
from jaxllm.losses.objective import Rewards, preference_loss
from jaxllm.losses.pairs import PairLogps, Tokens, pairs_of, partners
from jaxllm.types import Answers, InputError


def read_rewards(
    model: Any, answers: Answers, key: jax.Array | None, *, reference: bool = False, needs: Collection[str] = ()
) -> PairLogps:
    """The pairs in packed rows, with rewards in place of log-probabilities.

    The reward of an answer is the head's number at its last token. Raises InputError for a head of another width.
    """
    batch = answers.batch
    hidden_BTD, _ = model.hidden(batch, key)
    B, T, D = hidden_BTD.shape
    A = answers.side_BA.shape[1]
    answer_BT = jnp.where(batch.weights_BT != 0, answers.answer_BT, -1)
    own_BAT = answer_BT[:, None, :] == jnp.arange(A)[None, :, None]
    last_BA = jnp.max(jnp.where(own_BAT, jnp.arange(T)[None, None, :], 0), axis=2)
    hidden_BAD = jnp.take_along_axis(hidden_BTD, last_BA[:, :, None], axis=1)
    reward_N1 = model.head(hidden_BAD.reshape(B * A, D))
    if reward_N1.shape != (B * A, 1):
        raise InputError(f"a reward model's head gives 1 number per token, this one {reward_N1.shape[-1]}")
    reward_BA = reward_N1.reshape(B, A)
    rejected_BA, paired_BA = partners(answers)

    def side(values_BA: jax.Array) -> Tokens:
        return Tokens(values_BA.reshape(-1, 1), paired_BA.reshape(-1, 1))

    other = lambda x_BA: jnp.take_along_axis(x_BA, rejected_BA, axis=1)  # noqa: E731
    weight_BA = jnp.where(paired_BA, jnp.minimum(answers.weight_BA, other(answers.weight_BA)), 0)
    return pairs_of(side(reward_BA), side(other(reward_BA)), weight_BA.reshape(-1), answers.margin_BA.reshape(-1))


def _reward(p: PairLogps) -> Rewards:
    return p.chosen_B, p.rejected_B


@preference_loss(reference=False, reward=_reward, read=read_rewards)
def bradley_terry(p: PairLogps, *, center: NonNegative = 0.0) -> jax.Array:
    """-log sigmoid(r_c - r_l - margin) + center (r_c + r_l)^2 (Bradley and Terry 1952).

    margin: how much better the chosen answer is (Touvron et al. 2023, Llama 2, equation 2). center: keeps the rewards,
    which a shift leaves the first term indifferent to, about 0 (Eisenstein et al. 2023).
    """
    loss_B = -jax.nn.log_sigmoid(p.chosen_B - p.rejected_B - p.margin_B)
    return loss_B + center * jnp.square(p.chosen_B + p.rejected_B)
