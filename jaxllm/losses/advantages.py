"""Advantages of sampled completions from their rewards, on the host: numpy arrays in, numpy arrays out, in float64.

G completions are sampled for each prompt; rewards are arrays [groups, G]. NaN stands for a reward that is missing. A
completion that no function scored is left out of every mean and deviation, and its advantage is 0, as is that of a
completion without another scored one in its group. Deviations divide by n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxllm.types import InputError, nearest

Scale = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]

Axes = int | tuple[int, int]
GROUP: Axes = -1
BATCH: Axes = (-2, -1)

EPSILON = 1e-4
"""Added to a deviation before it divides, as TRL does."""


def advantages(
    rewards: Any,
    *,
    reward_weights: Sequence[float] | None = None,
    scale_rewards: Scale = "group",
    multi_objective_aggregation: Aggregation = "sum_then_normalize",
) -> np.ndarray:
    """The rewards relative to those of their group, [groups, G].

    rewards: [groups, G], or [functions, groups, G] of several reward functions, with one weight each (1 unless given).
    scale_rewards: "group" divides by the deviation within the group (Shao et al. 2024, DeepSeekMath, section 4.1),
    "batch" by that of all rewards (2508.08221), "none" by nothing (Liu et al. 2025, Dr. GRPO).
    multi_objective_aggregation: "sum_then_normalize" does that to the sum over functions, in which a reward that one of
    several functions misses counts 0; "normalize_then_sum" divides each function's rewards by the group's deviation,
    sums them, and normalises the sums over the batch (GDPO, 2601.05242). Raises InputError for a wrong shape or choice.
    """
    _chosen("scale_rewards", scale_rewards, get_args(Scale))
    _chosen("multi_objective_aggregation", multi_objective_aggregation, get_args(Aggregation))
    total = combine(rewards, reward_weights)
    if multi_objective_aggregation == "normalize_then_sum":
        if scale_rewards != "group":
            raise InputError(f"scale_rewards={scale_rewards!r} has no effect under normalize_then_sum: leave it out")
        each = _functions(rewards)
        each = (each - _mean(each)) / (_deviation(each) + EPSILON)
        total = np.where(np.isnan(total), np.nan, np.tensordot(_weights(each, reward_weights), np.nan_to_num(each), 1))
        found = (total - _mean(total, BATCH)) / (_deviation(total, BATCH) + EPSILON)
    else:
        found = total - _mean(total)
        if scale_rewards != "none":
            found = found / (_deviation(total, GROUP if scale_rewards == "group" else BATCH) + EPSILON)
    return np.where(_count(total) > 1, np.nan_to_num(found), 0.0)


def leave_one_out(
    rewards: Any,
    *,
    reward_weights: Sequence[float] | None = None,
    reward_clip_range: tuple[float, float] | None = None,
    normalize_advantages: bool = False,
    beta: float = 0.0,
    kl: Any = None,
) -> np.ndarray:
    """Each reward less the mean of the other completions of its group, [groups, G] (RLOO, Ahmadian et al. 2024).

    rewards, reward_weights: as `advantages` takes them. reward_clip_range: bounds of the summed reward. kl: the sum
    over a completion's tokens of the log-ratio of old policy and reference, in nats, [groups, G]; beta times it is
    taken off the reward. normalize_advantages: takes off the mean over the batch, and divides by the deviation. Raises
    InputError for a wrong shape, and for beta without kl.
    """
    total = combine(rewards, reward_weights)
    if reward_clip_range is not None:
        total = np.clip(total, *reward_clip_range)
    if beta:
        if kl is None or np.shape(kl) != total.shape:
            raise InputError(f"beta={beta} takes the KL off the reward: give kl of the shape {list(total.shape)}")
        total = total - beta * np.asarray(kl, np.float64)
    count = _count(total)
    others = (np.nansum(total, axis=GROUP, keepdims=True) - total) / np.maximum(count - 1, 1)
    found = np.where((count > 1) | np.isnan(total), total - others, 0.0)
    if normalize_advantages:
        found = (found - _mean(found, BATCH)) / (_deviation(found, BATCH) + EPSILON)
    return np.nan_to_num(found)


def combine(rewards: Any, reward_weights: Sequence[float] | None = None) -> np.ndarray:
    """The weighted sum of the functions' rewards, [groups, G]; NaN where every function misses, 0 for one that does."""
    each = _functions(rewards)
    total = np.tensordot(_weights(each, reward_weights), np.nan_to_num(each), 1)
    return np.where(np.isnan(each).all(axis=0), np.nan, total)


def reward_metrics(
    rewards: Any, reward_weights: Sequence[float] | None = None, *, names: Sequence[str] | None = None
) -> dict[str, float]:
    """What to log of a round, by TRL's names: mean and deviation of each function's rewards and of the sum.

    names: of the functions. "frac_reward_zero_std" is the share of groups from which nothing is learned: all rewards
    alike, or at most one there. A deviation of fewer than two rewards is NaN.
    """
    each, total = _functions(rewards), combine(rewards, reward_weights)
    names = names or [f"f{i}" for i in range(len(each))]
    if len(names) != len(each):
        raise InputError(f"{len(names)} names for {len(each)} reward functions; give one each")
    found: dict[str, float] = {}
    for name, x in zip(names, each, strict=True):
        found |= {f"rewards/{name}/mean": _mean(x, BATCH).item(), f"rewards/{name}/std": _deviation(x, BATCH).item()}
    found |= {"reward": _mean(total, BATCH).item(), "reward_std": _deviation(total, BATCH).item()}
    return found | {"frac_reward_zero_std": float(np.mean(~(_deviation(total) > 1e-8)))}


def _functions(rewards: Any) -> np.ndarray:
    """[functions, groups, G], float64. Raises InputError for another shape, groups of one, and infinite rewards."""
    each = np.asarray(rewards, np.float64)
    each = each[None] if each.ndim == 2 else each
    if each.ndim != 3 or not each.size:
        raise InputError(
            f"rewards have the shape {list(np.shape(rewards))}; [groups, G] or [functions, groups, G] is wanted"
        )
    if each.shape[-1] < 2:
        raise InputError(
            "a group has 1 completion, whose reward has none to be compared with: sample 2 or more a prompt"
        )
    if np.isinf(each).any():
        raise InputError("a reward is infinite: return a finite number, or NaN for a reward that is missing")
    return each


def _weights(each: np.ndarray, reward_weights: Sequence[float] | None) -> np.ndarray:
    weights = np.ones(len(each)) if reward_weights is None else np.asarray(reward_weights, np.float64)
    if weights.shape != (len(each),):
        raise InputError(f"{len(each)} reward functions have {weights.size} reward_weights; give one each")
    return weights


def _chosen(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r}: {nearest(str(value), choices)}")


def _count(x: np.ndarray, axis: Axes = GROUP) -> np.ndarray:
    return np.sum(~np.isnan(x), axis=axis, keepdims=True)


def _mean(x: np.ndarray, axis: Axes = GROUP) -> np.ndarray:
    """The mean of what is no NaN, NaN where nothing is; the axes stay, of length 1."""
    count = _count(x, axis)
    return np.where(count > 0, np.nansum(x, axis=axis, keepdims=True) / np.maximum(count, 1), np.nan)


def _deviation(x: np.ndarray, axis: Axes = GROUP) -> np.ndarray:
    """The sample deviation of what is no NaN, NaN where fewer than two are; the axes stay, of length 1."""
    count = _count(x, axis)
    squares = np.nansum(np.square(x - _mean(x, axis)), axis=axis, keepdims=True)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
