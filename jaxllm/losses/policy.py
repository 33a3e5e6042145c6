"""Policy losses: GRPO and its relatives, RLOO and REINFORCE. One function per loss, which gives a number per token.

In the equations p and o are the log-probabilities of a sampled token under the policy and under the policy that sampled
it, A its advantage (advantages.py), n the completion's number of tokens; rho = exp(p - o) the importance ratio, or at
importance_sampling_level "sequence" the exponential of the completion's mean of p - o; lo = epsilon, hi = epsilon_high,
or epsilon where that is none; sg: no gradient, s the sigmoid. KL, entropy and masks are added to any loss, and the mean
over the batch is taken, in policy_objective.py.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import Fraction, NonNegative, Positive
from jaxllm.losses.clipping import Shown, clipped, of_level, shares, surrogate
from jaxllm.losses.pairs import per_token
from jaxllm.losses.policy_objective import Correction, PolicyLoss, policy_loss, sampling_ratio
from jaxllm.losses.rollouts import Level, PolicyLogps, bounded, top_entropy

__all__ = ["PolicyLogps", "PolicyLoss", "policy_loss"]

LEAST, MOST = math.log(1e-8), 20.0
"""Bounds of VESPO's log weights (TRL 2026)."""


@policy_loss(reduction="sequence mean")
def grpo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
    importance_sampling_level: Level = "token",
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A) (Shao et al. 2024, DeepSeekMath, equation 3).

    The paper adds beta times the KL by k3, without use_bias_correction_kl. delta: rho is at most this, which bounds the
    loss where A < 0 (INTELLECT-2 2025, section 4.1).
    """
    return clipped(p, epsilon, epsilon_high, importance_sampling_level, delta)


@policy_loss(reduction="batch token mean")
def bnpo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
    importance_sampling_level: Level = "token",
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A), GRPO's term with another mean (TRL 2025).

    With an advantage per token it is PPO's clipped term (Schulman et al. 2017, equation 7).
    """
    return clipped(p, epsilon, epsilon_high, importance_sampling_level, delta)


@policy_loss(reduction="constant")
def dr_grpo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
    importance_sampling_level: Level = "token",
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A), with no length in the mean (Liu et al. 2025, Dr. GRPO, section 3).

    Its advantages are not divided by the deviation of rewards (scale_rewards="none").
    """
    return clipped(p, epsilon, epsilon_high, importance_sampling_level, delta)


@policy_loss
def dapo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.2,
    epsilon_high: NonNegative | None = 0.28,
    delta: Positive | None = None,
    importance_sampling_level: Level = "token",
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A) with hi above lo (Yu et al. 2025, DAPO, equation 8)."""
    return clipped(p, epsilon, epsilon_high, importance_sampling_level, delta)


@policy_loss(reduction="sequence sum")
def luspo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
    importance_sampling_level: Level = "sequence",
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A): a sequence's term counts as often as it has tokens (LUSPO 2026)."""
    return clipped(p, epsilon, epsilon_high, importance_sampling_level, delta)


@policy_loss(reduction="sequence mean", level="sequence")
def gspo(
    p: PolicyLogps, *, epsilon: NonNegative = 3e-4, epsilon_high: NonNegative | None = 4e-4
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A), rho of the sequence (Zheng et al. 2025, GSPO, equations 5 and 7)."""
    return clipped(p, epsilon, epsilon_high, "sequence")


@policy_loss
def cispo(
    p: PolicyLogps, *, epsilon_high: Positive = 5.0, importance_sampling_level: Level = "token"
) -> tuple[jax.Array, Shown]:
    """-sg(min(rho, hi)) A p: every token keeps its gradient (MiniMax 2025, M1, equations 4 and 5).

    epsilon_high is the cap itself; 5 is that of ScaleRL (Khatri et al. 2025).
    """
    ratio_BT = p.ratio(importance_sampling_level)
    capped_BT = ratio_BT > epsilon_high
    shown = {"cispo_clip_ratio": capped_BT & (p.advantages_BT > 0), "cispo_capped": capped_BT}  # TRL has the first
    weight_BT = jax.lax.stop_gradient(jnp.minimum(ratio_BT, epsilon_high))
    loss_BT = -weight_BT * p.advantages_BT * p.policy_BT
    return loss_BT, {name: of_level(p, importance_sampling_level, x_BT) for name, x_BT in shown.items()}


@policy_loss(reduction="sequence mean")
def sapo(
    p: PolicyLogps,
    *,
    sapo_temperature_pos: Positive = 1.0,
    sapo_temperature_neg: Positive = 1.05,
    importance_sampling_level: Level = "token",
) -> jax.Array:
    """-A (4/t) s(t (rho - 1)), t by the sign of A: a soft gate in place of the clip (SAPO 2025)."""
    t_BT = jnp.where(p.advantages_BT > 0, sapo_temperature_pos, sapo_temperature_neg).astype(p.policy_BT.dtype)
    return -p.advantages_BT * (4 / t_BT) * jax.nn.sigmoid(t_BT * (p.ratio(importance_sampling_level) - 1))


@policy_loss
def vespo(
    p: PolicyLogps,
    *,
    vespo_k_pos: NonNegative = 2.0,
    vespo_lambda_pos: NonNegative = 3.0,
    vespo_k_neg: NonNegative = 3.0,
    vespo_lambda_neg: NonNegative = 2.0,
    vllm_importance_sampling_mode: Correction = "none",
    vllm_importance_sampling_clip_max: Positive | None = 3.0,
    vllm_importance_sampling_clip_min: NonNegative | None = None,
) -> tuple[jax.Array, Shown]:
    """-sg(w^k exp(l (1 - w))) A p, w = exp(sum over the completion of p - o) (VESPO 2026).

    k and l are vespo_k_pos and vespo_lambda_pos where A >= 0, else vespo_k_neg and vespo_lambda_neg. The ratio of old
    policy and generator is a factor of w, and a token that it masks counts 0.
    """
    log_w_B, kept_BT = p.sum(p.log_ratio_BT), p.mask_BT
    if vllm_importance_sampling_mode != "none":
        bounds = vllm_importance_sampling_clip_min, vllm_importance_sampling_clip_max
        sampling_BT = sampling_ratio(p, vllm_importance_sampling_mode, *bounds)
        kept_BT = sampling_BT > 0
        log_BT = jnp.clip(jnp.log(jnp.where(kept_BT, sampling_BT, 1)), LEAST, MOST)
        log_w_B += p.mean(log_BT) if vllm_importance_sampling_mode.startswith("sequence") else p.sum(log_BT)
    log_w_B1 = jax.lax.stop_gradient(jnp.clip(log_w_B, LEAST, MOST))[:, None]
    gain_BT = p.advantages_BT >= 0
    k_BT = jnp.where(gain_BT, vespo_k_pos, vespo_k_neg).astype(p.policy_BT.dtype)
    lambda_BT = jnp.where(gain_BT, vespo_lambda_pos, vespo_lambda_neg).astype(p.policy_BT.dtype)
    phi_BT = jnp.exp(lambda_BT * (1 - jnp.exp(log_w_B1)) + k_BT * log_w_B1)
    shown = {"vespo/phi_seq_mean": jnp.where(p.length_B > 0, p.mean(phi_BT), 1)}  # w is 1 without tokens
    return jnp.where(kept_BT, -phi_BT * p.advantages_BT * p.policy_BT, 0), shown


@policy_loss(
    reduction="sequence mean", without=("use_bias_correction_kl", "vllm_importance_sampling_mode")
)  # fmt: skip
def gmpo(
    p: PolicyLogps,
    *,
    epsilon: NonNegative = 0.4,
    epsilon_high: NonNegative | None = None,
    top_entropy_quantile: Fraction = 1.0,
) -> tuple[jax.Array, Shown]:
    """-exp(mean of y) A, y = min(p - o, hi) where A > 0 else max(p - o, -lo) (GMPO 2025).

    The ratio of a completion is the geometric mean of those of its tokens, each clipped; of those of highest entropy
    alone where top_entropy_quantile is below 1.
    """
    A_BT, x_BT = p.advantages_BT, p.log_ratio_BT
    high = epsilon if epsilon_high is None else epsilon_high
    y_BT = jnp.where(A_BT > 0, jnp.minimum(x_BT, high), jnp.maximum(x_BT, -epsilon))
    kept_BT = top_entropy(p, top_entropy_quantile)
    mean_B = per_token(p.sum(jnp.where(kept_BT, y_BT, 0)), p.sum(kept_BT).astype(y_BT.dtype))
    low_BT, high_BT = (x_BT < -epsilon) & (A_BT < 0), (x_BT > high) & (A_BT > 0)
    return -jnp.exp(mean_B)[:, None] * A_BT, shares(p, "token", low_BT, high_BT)


@policy_loss(reduction="sequence sum")
def rloo(
    p: PolicyLogps, *, epsilon: NonNegative = 0.2, epsilon_high: NonNegative | None = None
) -> tuple[jax.Array, Shown]:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A) / n, rho = exp(sum over the completion of p - o) (Ahmadian et al. 2024).

    A is a reward less the mean reward of the other completions of the prompt (`leave_one_out`). The clip is TRL's.
    """
    ratio_BT = jnp.broadcast_to(jnp.exp(bounded(p.sum(p.log_ratio_BT)))[:, None], p.policy_BT.shape)
    A_BT, high = p.advantages_BT, epsilon if epsilon_high is None else epsilon_high
    low_BT, high_BT = (ratio_BT < 1 - epsilon) & (A_BT < 0), (ratio_BT > 1 + high) & (A_BT > 0)
    loss_BT = surrogate(ratio_BT, A_BT, epsilon, high) / jnp.maximum(p.length_B, 1)[:, None]
    return loss_BT, shares(p, "sequence", low_BT, high_BT)


@policy_loss(reduction="sequence sum")
def reinforce(p: PolicyLogps) -> jax.Array:
    """-A p: the policy gradient, with the baseline in A (Williams 1992)."""
    return -p.advantages_BT * p.policy_BT
