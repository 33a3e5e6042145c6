"""The log-probabilities of sampled completions that policy losses read.

They come from packed rows and a model (`read_rollouts`) or from arrays (`PolicyLogps.of`). Here the axis B is of
completions, and T of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.losses.pairs import per_token, token_values
from jaxllm.types import InputError, Mean, Rollouts

Level = Literal["token", "sequence"]
Estimator = Literal["k1", "k2", "k3"]

BOUND = 20.0
"""Log-ratios are held within this of 0, so that no ratio overflows float32; beyond it they have no gradient."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyLogps:
    """Completions token by token. All values are 0 where `mask_BT` is false; only `policy_BT` has a gradient."""

    policy_BT: jax.Array
    """float32, nats. The policy's log-probability of each token."""
    old_BT: jax.Array
    """float32, nats. The log-probability under the policy that sampled; the policy's own, without gradient, if None."""
    mask_BT: jax.Array
    """bool. Which tokens are learned from: the completion's, without tool results; none of a masked completion."""
    advantages_BT: jax.Array
    """float32, reward. The advantage of each token; often one number for all tokens of a completion."""
    weight_B: jax.Array
    """float32. How much the completion counts in means; 0 in a slot without a completion."""
    ref_BT: jax.Array | None = None
    """float32, nats. The reference's log-probability of each token; None without a reference."""
    entropy_BT: jax.Array | None = None
    """float32, nats. The entropy of the policy at each token; its gradient only with "entropy" in needs."""
    sampler_BT: jax.Array | None = None
    """float32, nats. The log-probability that the generator itself reported; old_BT where it reported NaN."""
    items: jax.Array | None = None
    """float32, tokens. What "token mean" divides by, where that is not this batch's own number of tokens."""
    max_length: jax.Array | None = None
    """float32, tokens. The longest that a completion may be, which "constant" divides by."""

    @property
    def length_B(self) -> jax.Array:
        """float32, tokens. How many tokens of the completion are learned from."""
        return jnp.sum(self.mask_BT, axis=1).astype(self.policy_BT.dtype)

    @property
    def log_ratio_BT(self) -> jax.Array:
        """float32, nats. policy_BT - old_BT, held within 20 of 0."""
        return bounded(self.policy_BT - self.old_BT)

    @property
    def ratio_BT(self) -> jax.Array:
        """float32. exp(log_ratio_BT), the importance ratio of each token."""
        return jnp.exp(self.log_ratio_BT)

    def ratio(self, level: Level) -> jax.Array:
        """[B, T]: `ratio_BT`, or at "sequence" the geometric mean over the completion's tokens, the same for each.

        GSPO, Zheng et al. 2025, equation 7.
        """
        if level == "token":
            return self.ratio_BT
        return jnp.broadcast_to(jnp.exp(self.mean(self.log_ratio_BT))[:, None], self.policy_BT.shape)

    def sum(self, values_BT: jax.Array) -> jax.Array:
        """The sum of values over the tokens of each completion, [B]."""
        return jnp.sum(jnp.where(self.mask_BT, values_BT, 0), axis=1)

    def mean(self, values_BT: jax.Array) -> jax.Array:
        """The mean of values over the tokens of each completion, [B]; 0 for one without tokens."""
        return per_token(self.sum(values_BT), self.length_B)

    def over_tokens(self, values_BT: jax.Array) -> Mean:
        """The mean of values over all tokens of the batch."""
        weight_BT = jnp.where(self.mask_BT, self.weight_B[:, None], 0)
        return Mean(jnp.sum(jnp.where(weight_BT > 0, weight_BT * values_BT, 0)), jnp.sum(weight_BT))

    def over_completions(self, values_B: jax.Array) -> Mean:
        """The mean of values over the completions of the batch."""
        total = jnp.sum(jnp.where(self.weight_B > 0, self.weight_B * values_B, 0))
        return Mean(total, jnp.sum(self.weight_B))

    @staticmethod
    def of(
        policy_BT: Any,
        old_BT: Any | None,
        mask_BT: Any,
        advantages: Any,
        *,
        ref_BT: Any = None,
        entropy_BT: Any = None,
        sampler_BT: Any = None,
        items: Any = None,
        max_length: Any = None,
        weight_B: Any = None,
    ) -> PolicyLogps:
        """From arrays [B, T]; traceable, and differentiable in policy_BT and entropy_BT.

        old_BT: None where the policy itself has sampled. mask_BT: true where a token is learned from; values elsewhere
        may be anything. advantages: [B] or [B, T]. weight_B: 1 unless given. The rest: see the fields. Raises
        InputError for a wrong shape.
        """
        policy_BT, mask_BT = jnp.asarray(policy_BT, dtype=float), jnp.asarray(mask_BT) != 0
        if policy_BT.ndim != 2:
            raise InputError(f"PolicyLogps.of: policy_BT has the shape {list(policy_BT.shape)}; [B, T] is wanted")
        shape, dtype = policy_BT.shape, policy_BT.dtype
        advantages = jnp.asarray(advantages, dtype=float)
        if advantages.ndim == 1 and advantages.shape[0] == shape[0]:
            advantages = jnp.broadcast_to(advantages[:, None], shape)
        number = lambda x: None if x is None else jnp.asarray(x, dtype)  # noqa: E731
        array = lambda x: None if x is None else jnp.asarray(x, dtype=float)  # noqa: E731
        given: dict[str, Any] = {"old_BT": array(old_BT), "advantages": advantages, "ref_BT": array(ref_BT)}
        given |= {"entropy_BT": array(entropy_BT), "sampler_BT": array(sampler_BT), "mask_BT": mask_BT}
        for name, x in given.items():
            if x is not None and x.shape != shape:
                raise InputError(f"PolicyLogps.of: {name} has the shape {list(x.shape)}, policy_BT {list(shape)}")
        weight_B = jnp.ones(shape[0], dtype) if weight_B is None else jnp.asarray(weight_B, dtype)
        return masked(PolicyLogps(
            policy_BT, given["old_BT"], mask_BT, advantages, weight_B, given["ref_BT"], given["entropy_BT"],
            given["sampler_BT"], number(items), number(max_length),
        ))  # fmt: skip


def masked(p: PolicyLogps) -> PolicyLogps:
    """p with values 0 outside the mask, and without gradient in what is data. Its old_BT may be None."""
    still = jax.lax.stop_gradient
    mask_BT = p.mask_BT & (p.weight_B[:, None] > 0)
    inside = lambda x_BT: jnp.where(mask_BT, x_BT, 0)  # noqa: E731
    policy_BT, sampler_BT = inside(p.policy_BT), p.sampler_BT
    old_BT = still(policy_BT if p.old_BT is None else inside(p.old_BT))
    if sampler_BT is not None:
        sampler_BT = still(inside(jnp.where(jnp.isnan(sampler_BT), old_BT, sampler_BT)))
    return dataclasses.replace(
        p, policy_BT=policy_BT, old_BT=old_BT, mask_BT=mask_BT, advantages_BT=still(inside(p.advantages_BT)),
        ref_BT=None if p.ref_BT is None else still(inside(p.ref_BT)),
        entropy_BT=None if p.entropy_BT is None else inside(p.entropy_BT), sampler_BT=sampler_BT,
    )  # fmt: skip


def bounded(log_ratio: jax.Array) -> jax.Array:
    """Within BOUND of 0."""
    return jnp.clip(log_ratio, -BOUND, BOUND)


def kl(p: PolicyLogps, estimator: Estimator) -> jax.Array:
    """The divergence KL(policy || reference) as each token estimates it, in nats, [B, T].

    With x = ref - policy: k1 is -x, k2 is x^2 / 2, k3 is exp(x) - 1 - x (Schulman 2020, "Approximating KL divergence").
    Raises InputError without a reference.
    """
    if p.ref_BT is None:
        raise InputError("this loss compares with a reference: give ref_BT, or beta=0")
    x_BT = bounded(p.ref_BT - p.policy_BT)
    return {"k1": lambda: -x_BT, "k2": lambda: jnp.square(x_BT) / 2, "k3": lambda: jnp.expm1(x_BT) - x_BT}[estimator]()


def top_entropy(p: PolicyLogps, quantile: float) -> jax.Array:
    """Which tokens have an entropy among the highest share `quantile` of the batch, bool [B, T]; 1 is all.

    At least the (1 - quantile)-quantile of the entropies, interpolated linearly, so 0 keeps the highest (Wang et al.
    2025, "Beyond the 80/20 rule"). Raises InputError without entropies.
    """
    if quantile >= 1:
        return p.mask_BT
    if p.entropy_BT is None:
        raise InputError("top_entropy_quantile reads the entropies of the policy: give entropy_BT")
    entropy_BT = jax.lax.stop_gradient(p.entropy_BT)
    sorted_N = jnp.sort(jnp.where(p.mask_BT, entropy_BT, jnp.inf).reshape(-1))
    last = jnp.maximum(jnp.sum(p.mask_BT) - 1, 0)
    place = (1 - quantile) * last.astype(entropy_BT.dtype)
    low = jnp.floor(place).astype(jnp.int32)
    low_entropy, high_entropy = sorted_N[low], sorted_N[jnp.minimum(low + 1, last)]
    bar = low_entropy + (place - low) * jnp.where(jnp.isfinite(high_entropy), high_entropy - low_entropy, 0)
    return p.mask_BT & (entropy_BT >= bar)


def read_rollouts(
    model: Any, rollouts: Rollouts, key: jax.Array | None, *, reference: bool, needs: Collection[str] = ()
) -> PolicyLogps:
    """The completions in packed rows, one slot per answer of a row (weight 0 where there is none).

    Each slot sees its row's tokens under a mask, so a sum is local to the row under any packing and sharding. The head
    is chunked: [B, T, V] is never built. Raises InputError where a reference is wanted and neither there nor taught.
    """
    if not isinstance(rollouts, Rollouts):
        raise InputError(
            f"a policy loss trains on Rollouts, sampled completions; the batch is {type(rollouts).__name__}"
        )
    needs = {*needs, "entropy" if "entropy" in needs else "entropy_value"}
    found = token_values(model, rollouts.batch, rollouts.ref_logps_BT, key, reference=reference, needs=needs)
    learned_BT = rollouts.batch.weights_BT != 0
    answer_BT = jnp.where(learned_BT, rollouts.answer_BT, -1)
    B, A = rollouts.weight_BA.shape
    T = answer_BT.shape[1]

    def slots(x_BT: jax.Array | None) -> Any:
        return None if x_BT is None else jnp.broadcast_to(x_BT[:, None, :], (B, A, T)).reshape(B * A, T)

    mask_BAT = answer_BT[:, None, :] == jnp.arange(A)[None, :, None]
    dtype = found["logps_BT"].dtype
    return masked(PolicyLogps(
        slots(found["logps_BT"]), slots(rollouts.old_logps_BT), mask_BAT.reshape(B * A, T),
        slots(rollouts.advantages_BT), rollouts.weight_BA.reshape(-1), slots(found.get("ref_logps_BT")),
        slots(found["entropy_BT"]), slots(rollouts.sampler_logps_BT),
        max_length=None if rollouts.max_length is None else jnp.asarray(rollouts.max_length, dtype),
    ))  # fmt: skip
