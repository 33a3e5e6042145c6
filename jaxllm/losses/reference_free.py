"""Preference losses without a reference. The notation is that of preference.py.

Where the likelihood of the chosen answers is added, it is the mean over all of their tokens in the batch, as in
supervised fine-tuning: a term that is counted by tokens, not by pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import NonNegative, Number, Positive, Smoothing
from jaxllm.losses.objective import Rewards, Term, preference_loss
from jaxllm.losses.pairs import PairLogps, per_token
from jaxllm.losses.preference import smoothed

Parts = tuple[jax.Array, Term]


def likelihood(p: PairLogps, weight: float = 1.0) -> Term:
    """Minus the log-probability per token of the chosen answers."""
    return Term(-per_token(p.chosen_B, p.chosen_length_B), p.chosen_length_B, weight, "nll_loss")


def mean_logps(p: PairLogps, *, beta: float = 1.0) -> Rewards:
    """beta times the log-probability per token."""
    return beta * per_token(p.chosen_B, p.chosen_length_B), beta * per_token(p.rejected_B, p.rejected_length_B)


@preference_loss(reference=False)
def sft(p: PairLogps, *, beta: Positive = 0.1) -> Term:
    """-c over all tokens of the chosen answers in the batch. beta scales nothing but the reported rewards."""
    return likelihood(p)._replace(name="")


@preference_loss(reference=False)
def cpo(
    p: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0, nll_weight: NonNegative = 1.0
) -> Parts:
    """-(1-e) L(b (c - l)) - e L(-b (c - l)), and the likelihood (Xu et al. 2024)."""
    return smoothed(beta * (p.chosen_B - p.rejected_B), label_smoothing), likelihood(p, nll_weight)


@preference_loss(reference=False)
def cpo_hinge(p: PairLogps, *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0) -> Parts:
    """max(0, 1 - b (c - l)), and the likelihood: CPO's form of SLiC (Zhao et al. 2023)."""
    return jnp.maximum(0, 1 - beta * (p.chosen_B - p.rejected_B)), likelihood(p, nll_weight)


@preference_loss(reference=False, reward=mean_logps)
def cpo_ipo(p: PairLogps, *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0) -> Parts:
    """(c/n_c - l/n_l - 1/(2b))^2, and the likelihood: CPO's form of IPO (Azar et al. 2024)."""
    chosen_B, rejected_B = mean_logps(p)
    return jnp.square(chosen_B - rejected_B - 1 / (2 * beta)), likelihood(p, nll_weight)


@preference_loss(reference=False, reward=mean_logps)
def simpo(
    p: PairLogps,
    *,
    beta: Positive = 2.0,
    gamma: NonNegative = 1.0,
    label_smoothing: Smoothing = 0.0,
    nll_weight: NonNegative = 0.0,
) -> Parts:
    """-(1-e) L(x) - e L(-x), x = b (c/n_c - l/n_l) - gamma (Meng et al. 2024, equation 6)."""
    chosen_B, rejected_B = mean_logps(p, beta=beta)
    return smoothed(chosen_B - rejected_B - gamma, label_smoothing), likelihood(p, nll_weight)


def _shaped(p: PairLogps, *, beta: float, alpha: float) -> Rewards:
    def shape(mean_B: jax.Array) -> jax.Array:
        if alpha == 0:
            return beta * mean_B
        cap = jnp.log(jnp.finfo(mean_B.dtype).max) / 4
        return -beta * jnp.expm1(jnp.minimum(-alpha * mean_B, cap)) / alpha

    chosen_B, rejected_B = mean_logps(p)
    return shape(chosen_B), shape(rejected_B)


@preference_loss(reference=False, reward=_shaped)
def alphapo(
    p: PairLogps,
    *,
    beta: Positive = 2.0,
    gamma: NonNegative = 1.0,
    alpha: Number = 0.25,
    label_smoothing: Smoothing = 0.0,
    nll_weight: NonNegative = 0.0,
) -> Parts:
    """SimPO with reward b (1 - q^-alpha) / alpha, q the answer's probability per token (Gupta et al. 2025).

    alpha = 0 is the limit b log q, SimPO itself.
    """
    chosen_B, rejected_B = _shaped(p, beta=beta, alpha=alpha)
    return smoothed(chosen_B - rejected_B - gamma, label_smoothing), likelihood(p, nll_weight)


def _log_odds(p: PairLogps) -> Rewards:
    def log_odds(mean_B: jax.Array) -> jax.Array:
        mean_B = jnp.minimum(mean_B, -jnp.finfo(mean_B.dtype).eps)  # a certain answer has infinite odds
        return mean_B - jnp.log(-jnp.expm1(mean_B))

    chosen_B, rejected_B = mean_logps(p)
    return log_odds(chosen_B), log_odds(rejected_B)


@preference_loss(reference=False, reward=_log_odds)
def orpo(p: PairLogps, *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0) -> Parts:
    """-b L(o_c - o_l), o = log(q / (1 - q)), q the probability per token; and the likelihood (Hong et al. 2024)."""
    chosen_B, rejected_B = _log_odds(p)
    return -beta * jax.nn.log_sigmoid(chosen_B - rejected_B), likelihood(p, nll_weight)
