"""Preference losses that compare the policy with a reference: DPO and its relatives. One function per loss.

In the equations c and l are the log-probabilities of the chosen and of the rejected answer under the policy, rc and rl
under the reference; u = c - rc and v = l - rl the log-ratios (or their scores, where another divergence is set) and
d = u - v; n_c and n_l lengths in tokens, b = beta, e = label_smoothing, s the sigmoid and L its logarithm. The loss
of a batch is the mean over pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import NonNegative, Positive, PositiveSmoothing, Smoothing
from jaxllm.losses.objective import PreferenceLoss, Rewards, Term, preference_loss
from jaxllm.losses.pairs import PairLogps, Tokens, per_token
from jaxllm.types import InputError

__all__ = ["PairLogps", "PreferenceLoss", "Term", "Tokens", "preference_loss"]

_sigmoid, _log_sigmoid = jax.nn.sigmoid, jax.nn.log_sigmoid


def smoothed(x_B: jax.Array, label_smoothing: float) -> jax.Array:
    """-(1-e) L(x) - e L(-x), [B]: cross entropy of a label that is wrong with probability e."""
    loss_B = -_log_sigmoid(x_B)
    return loss_B + label_smoothing * x_B if label_smoothing else loss_B  # L(x) - L(-x) = x


def mean_ratio(p: PairLogps, *, beta: float) -> Rewards:
    """beta times the log-ratio per token."""
    return (
        beta * per_token(p.chosen_ratio_B, p.chosen_length_B),
        beta * per_token(p.rejected_ratio_B, p.rejected_length_B),
    )


@preference_loss
def sigmoid(p: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> jax.Array:
    """DPO: -(1-e) L(b d) - e L(-b d) (Rafailov et al. 2023, equation 7; e: cDPO, Mitchell 2023)."""
    return smoothed(beta * p.delta_B, label_smoothing)


@preference_loss
def hinge(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """max(0, 1 - b d) (SLiC, Zhao et al. 2023; with a reference, RSO, Liu et al. 2024)."""
    return jnp.maximum(0, 1 - beta * p.delta_B)


@preference_loss(reward=mean_ratio)
def ipo(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """(u/n_c - v/n_l - 1/(2b))^2 (Azar et al. 2024, equation 17; per token)."""
    chosen_B, rejected_B = mean_ratio(p, beta=1.0)
    return jnp.square(chosen_B - rejected_B - 1 / (2 * beta))


@preference_loss
def exo_pair(p: PairLogps, *, beta: Positive = 0.1, label_smoothing: PositiveSmoothing = 1e-3) -> jax.Array:
    """KL of the policy's preference s(bd) from the label's: s(bd) [L(bd) - log(1-e)] + s(-bd) [L(-bd) - log e].

    EXO for pairs (Ji et al. 2024). At e = 0, a certain label, the divergence is infinite.
    """
    x_B, e = beta * p.delta_B, label_smoothing
    agree_B = _sigmoid(x_B) * (_log_sigmoid(x_B) - jnp.log1p(-e))
    return agree_B + _sigmoid(-x_B) * (_log_sigmoid(-x_B) - jnp.log(e))


@preference_loss
def nca_pair(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """-L(bu) - L(-bu)/2 - L(-bv)/2: noise contrastive alignment (Chen et al. 2024)."""
    u_B, v_B = beta * p.chosen_ratio_B, beta * p.rejected_ratio_B
    return -_log_sigmoid(u_B) - 0.5 * _log_sigmoid(-u_B) - 0.5 * _log_sigmoid(-v_B)


@preference_loss
def robust(p: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> jax.Array:
    """[-(1-e) L(bd) + e L(-bd)] / (1 - 2e): unbiased where a share e of labels is wrong (Chowdhury et al. 2024)."""
    x_B, e = beta * p.delta_B, label_smoothing
    return (e * _log_sigmoid(-x_B) - (1 - e) * _log_sigmoid(x_B)) / (1 - 2 * e)


@preference_loss
def bco_pair(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """-L(bu) - L(-bv): binary classifier optimisation, without the reward shift (Jung et al. 2024)."""
    return -_log_sigmoid(beta * p.chosen_ratio_B) - _log_sigmoid(-beta * p.rejected_ratio_B)


@preference_loss
def sppo_hard(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """(u - 1/(2b))^2 + (v + 1/(2b))^2: self-play, winning with probability 1 or 0 (Wu et al. 2024)."""
    half = 1 / (2 * beta)
    return jnp.square(p.chosen_ratio_B - half) + jnp.square(p.rejected_ratio_B + half)


@preference_loss(couples_batch=True)
def aot(p: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> jax.Array:
    """-(1-e) L(bq) - e L(-bq), q = sort(c - l) - sort(rc - rl) over the batch (Melnyk et al. 2024, paired).

    It pushes the distribution of the policy's margins above that of the reference's. A pair's loss is that of its
    margin's rank.
    """
    margin_B = p.chosen_B - p.rejected_B
    return _dominate(margin_B, margin_B - p.delta_B, p.weight_B, beta, label_smoothing)


@preference_loss(couples_batch=True)
def aot_unpaired(p: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> jax.Array:
    """-(1-e) L(bq) - e L(-bq), q = sort(u) - sort(v) over the batch (Melnyk et al. 2024, unpaired)."""
    return _dominate(p.chosen_ratio_B, p.rejected_ratio_B, p.weight_B, beta, label_smoothing)


def _dominate(
    high_B: jax.Array, low_B: jax.Array, weight_B: jax.Array, beta: float, label_smoothing: float
) -> jax.Array:
    absent_B = weight_B == 0  # sorted to the end of both lists
    order_B = jnp.lexsort((high_B, absent_B))
    other_B = jnp.lexsort((low_B, absent_B))
    quantile_B = jnp.argsort(order_B)  # of each pair, in `high`
    return smoothed(beta * (high_B - low_B[other_B][quantile_B]), label_smoothing)


@preference_loss
def apo_zero(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """1 - s(bu) + s(bv): raises the chosen; for answers better than the policy's (D'Oosterlinck et al. 2024)."""
    return _sigmoid(-beta * p.chosen_ratio_B) + _sigmoid(beta * p.rejected_ratio_B)


@preference_loss
def apo_down(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """s(bu) + 1 - s(b d): lowers both; for answers worse than the policy's (D'Oosterlinck et al. 2024)."""
    return _sigmoid(beta * p.chosen_ratio_B) + _sigmoid(-beta * p.delta_B)


@preference_loss
def discopop(p: PairLogps, *, beta: Positive = 0.1, discopop_tau: Positive = 0.05) -> jax.Array:
    """-(1-m) L(bd) + m exp(-bd), m = s(bd/tau): found by a search of programs (Lu et al. 2024)."""
    x_B = beta * p.delta_B
    # m exp(-x) by its logarithm, for exp(-x) alone overflows where m is 0.
    return jnp.exp(_log_sigmoid(x_B / discopop_tau) - x_B) - _sigmoid(-x_B / discopop_tau) * _log_sigmoid(x_B)


@preference_loss(reward=mean_ratio)
def sigmoid_norm(p: PairLogps, *, beta: Positive = 0.1) -> jax.Array:
    """-L(b (u/n_c - v/n_l)): DPO per token (Tulu 3, Lambert et al. 2024)."""
    chosen_B, rejected_B = mean_ratio(p, beta=beta)
    return -_log_sigmoid(chosen_B - rejected_B)


def _penalised(p: PairLogps, *, beta: float, penalty: float) -> Rewards:
    u_B = p.chosen_ratio_B
    return beta * (u_B - penalty * jnp.maximum(0, -u_B)), beta * p.rejected_ratio_B


@preference_loss(reward=_penalised)
def dpop(p: PairLogps, *, beta: Positive = 0.1, penalty: NonNegative = 50.0) -> jax.Array:
    """-L(b (d - penalty max(0, -u))): the chosen may not get less likely (DPO-Positive, Pal et al. 2024)."""
    chosen_B, rejected_B = _penalised(p, beta=beta, penalty=penalty)
    return -_log_sigmoid(chosen_B - rejected_B)


def _with_length(p: PairLogps, *, beta: float, alpha: float) -> Rewards:
    return (
        beta * p.chosen_ratio_B + alpha * p.chosen_length_B,
        beta * p.rejected_ratio_B + alpha * p.rejected_length_B,
    )


@preference_loss(reward=_with_length)
def rdpo(p: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 0.01) -> jax.Array:
    """-L(b d + alpha (n_c - n_l)): DPO of the reward less alpha per token (Park et al. 2024).

    The best policy for reward r - alpha n has r = b u + alpha n + const, so length explains part of a preference.
    """
    chosen_B, rejected_B = _with_length(p, beta=beta, alpha=alpha)
    return -_log_sigmoid(chosen_B - rejected_B)


def _with_kl(p: PairLogps, *, beta: float, alpha: float) -> Rewards:
    if p.chosen_tokens.kl_BT is None or p.rejected_tokens.kl_BT is None:
        raise InputError("tdpo reads the KL per token: its PairLogps come from a model with a teacher")
    chosen_kl_B = jax.lax.stop_gradient(p.chosen_tokens.sum(p.chosen_tokens.kl_BT))
    rejected_kl_B = p.rejected_tokens.sum(p.rejected_tokens.kl_BT)
    return beta * (p.chosen_ratio_B + alpha * chosen_kl_B), beta * (p.rejected_ratio_B + alpha * rejected_kl_B)


@preference_loss(needs=("kl",), reward=_with_kl)
def tdpo(p: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative = 0.5) -> jax.Array:
    """-L(b d - alpha b (K_l - sg K_c)), K the answer's sum of KL(reference || policy) per token; sg: no gradient.

    TDPO2 (Zeng et al. 2024). The reference's distributions come from `model.teacher`.
    """
    chosen_B, rejected_B = _with_kl(p, beta=beta, alpha=alpha)
    return -_log_sigmoid(chosen_B - rejected_B)
