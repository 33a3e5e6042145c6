"""The clipped term that GRPO, PPO and their relatives share, and the shares of what is clipped."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxllm.losses.rollouts import Level, PolicyLogps

Shown = Mapping[str, jax.Array]
"""What else a loss logs: values [B, T] or [B] by name."""


def surrogate(ratio: jax.Array, advantage: jax.Array, epsilon: float, epsilon_high: float | None) -> jax.Array:
    """-min(rho A, clip(rho, 1-lo, 1+hi) A): no gradient where the ratio has left the range to the policy's profit."""
    high = epsilon if epsilon_high is None else epsilon_high
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - epsilon, 1 + high) * advantage)


def shares(p: PolicyLogps, level: Level, low_BT: jax.Array, high_BT: jax.Array) -> Shown:
    """The shares of tokens, or of completions, that are clipped, under TRL's names."""
    found = {"low": low_BT, "high": high_BT, "region": low_BT | high_BT}
    return {f"clip_ratio/{name}_mean": of_level(p, level, x_BT) for name, x_BT in found.items()}


def of_level(p: PolicyLogps, level: Level, flags_BT: jax.Array) -> jax.Array:
    """Flags as they are, or per completion, [B]."""
    return p.mean(flags_BT.astype(p.policy_BT.dtype)) if level == "sequence" else flags_BT


def clipped(
    p: PolicyLogps, epsilon: float, epsilon_high: float | None, level: Level, delta: float | None = None
) -> tuple[jax.Array, Shown]:
    """The clipped term of GRPO and its relatives, and where the clip acts."""
    ratio_BT, A_BT = p.ratio(level), p.advantages_BT
    if delta is not None:
        ratio_BT = jnp.minimum(ratio_BT, delta)
    high = epsilon if epsilon_high is None else epsilon_high
    low_BT, high_BT = (ratio_BT < 1 - epsilon) & (A_BT < 0), (ratio_BT > 1 + high) & (A_BT > 0)
    return surrogate(ratio_BT, A_BT, epsilon, high), shares(p, level, low_BT, high_BT)
