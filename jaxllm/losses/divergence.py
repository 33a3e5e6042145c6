"""The options of every loss with a reference: f-divergences (f-DPO), length desensitising (LD-DPO) and WPO's weights.

A loss is written for the log-ratio of policy and reference under a KL-regularised objective. The first two options
replace the sums that it reads, so no loss has code for them.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxllm.losses.pairs import PairLogps, Tokens, per_token


def desensitise(p: PairLogps, ld_alpha: float) -> PairLogps:
    """Sums over the first min(n_c, n_l) tokens plus ld_alpha times those over the rest (LD-DPO, Liu et al. 2024)."""
    shared_B = jnp.minimum(p.chosen_length_B, p.rejected_length_B)

    def sums(tokens: Tokens) -> tuple[jax.Array, jax.Array | None]:
        before_BT = jnp.cumsum(tokens.mask_BT, axis=1) - tokens.mask_BT
        tail_BT = before_BT >= shared_B[:, None]
        weigh = lambda x_BT: tokens.sum(jnp.where(tail_BT, ld_alpha * x_BT, x_BT))  # noqa: E731
        return weigh(tokens.logps_BT), None if tokens.ref_logps_BT is None else weigh(tokens.ref_logps_BT)

    chosen_B, ref_chosen_B = sums(p.chosen_tokens)
    rejected_B, ref_rejected_B = sums(p.rejected_tokens)
    return dataclasses.replace(
        p, chosen_B=chosen_B, rejected_B=rejected_B, ref_chosen_B=ref_chosen_B, ref_rejected_B=ref_rejected_B
    )


def with_scores(p: PairLogps, f_divergence: str, f_alpha: float) -> PairLogps:
    """The pairs with the policy's sums moved so that the log-ratio x is the score f(x) (f-DPO, Wang et al. 2024).

    f(x) is the derivative of the divergence's generator, up to a constant: x for the reverse KL, 1 - e^-x for the
    forward KL, log 2 + log sigmoid(x) for Jensen-Shannon, (e^((a-1)x) - 1) / (a - 1) for an alpha divergence, of which
    a = 1 is the reverse KL and a = 0 the forward.
    """
    power = 0.0 if f_divergence == "forward_kl" else f_alpha

    def score(x_B: jax.Array) -> jax.Array:
        if f_divergence == "js_divergence":
            return math.log(2) + jax.nn.log_sigmoid(x_B)
        # Capped so that a loss can still square it.
        cap = math.log(jnp.finfo(x_B.dtype).max) / 4
        return jnp.expm1(jnp.minimum((power - 1) * x_B, cap)) / (power - 1)

    if f_divergence == "reverse_kl" or (f_divergence == "alpha_divergence" and f_alpha == 1):
        return p
    assert p.ref_chosen_B is not None
    assert p.ref_rejected_B is not None
    return dataclasses.replace(
        p,
        chosen_B=p.ref_chosen_B + score(p.chosen_ratio_B),
        rejected_B=p.ref_rejected_B + score(p.rejected_ratio_B),
    )


def policy_weight(p: PairLogps) -> jax.Array:
    """The weight of each pair, [B]: w_c w_l, w = exp(mean_t[log p_t - log sum_v p_v^2]), without gradient.

    WPO (Zhou et al. 2024) weights pairs by how likely the policy finds both answers, so that off-policy data
    approximates on-policy data.
    """

    def mean(tokens: Tokens, length_B: jax.Array) -> jax.Array:
        assert tokens.log_sum_sq_BT is not None
        return per_token(tokens.sum(tokens.logps_BT - tokens.log_sum_sq_BT), length_B)

    log_weight_B = mean(p.chosen_tokens, p.chosen_length_B) + mean(p.rejected_tokens, p.rejected_length_B)
    return jax.lax.stop_gradient(jnp.exp(log_weight_B))
