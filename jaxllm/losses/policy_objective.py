"""`@policy_loss` makes a loss of a function of sampled completions, and adds masks, KL, entropy and the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import Fraction, NonNegative, Number, Positive, check, parameters
from jaxllm.losses.clipping import Shown
from jaxllm.losses.decorated import Decorated, example_array
from jaxllm.losses.objective import evaluate
from jaxllm.losses.rollouts import Estimator, Level, PolicyLogps, bounded, kl, read_rollouts, top_entropy
from jaxllm.types import InputError, Mean, Metrics, Rollouts, nearest

Reduction = Literal["token mean", "batch token mean", "sequence mean", "sequence sum", "constant"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

REDUCTIONS: dict[Reduction, str] = {
    "token mean": "the mean over all tokens of the optimizer step",
    "batch token mean": "the mean over all tokens of the batch",
    "sequence mean": "the mean over tokens of each completion, then the mean over completions",
    "sequence sum": "the sum over tokens of each completion, then the mean over completions",
    "constant": "the sum over all tokens, divided by completions times the longest that one may be",
}
"""How the loss of a batch follows from those of its tokens. Microbatches add, so the first two differ in one place:
only "token mean" divides by `PolicyLogps.items` where they are given."""


def shared_arguments(
    *,
    beta: NonNegative = 0.0,
    kl_estimator: Estimator = "k3",
    use_bias_correction_kl: bool = True,
    top_entropy_quantile: Fraction = 1.0,
    entropy_coef: NonNegative = 0.0,
    off_policy_mask_threshold: Number | None = None,
    vllm_importance_sampling_mode: Correction = "none",
    vllm_importance_sampling_clip_max: Positive | None = 3.0,
    vllm_importance_sampling_clip_min: NonNegative | None = None,
) -> None:
    """The arguments that policy losses share, under TRL's names where it has them. In the order of their effect:

    off_policy_mask_threshold d: a token of negative advantage counts 0 where its completion's mean of old - policy (of
    the generator's where it is known) is above d (DeepSeek-V3.2 2025, equation 9). top_entropy_quantile q: others than
    the share q of highest entropy count 0 (Wang et al. 2025). vllm_importance_sampling_mode: times the ratio of old
    policy and generator, whatever program that is, per token or per completion (the product over its tokens), cut to
    clip_min and clip_max ("truncate", Yao et al. 2025) or 0 outside them ("mask"). beta: plus beta times the KL from
    the reference by kl_estimator (Schulman 2020; k3: Shao et al. 2024, equation 4), times the importance ratio if
    use_bias_correction_kl (DeepSeek-V3.2 2025), whose gradient is then that of the divergence. Then the loss's own
    mean is taken, and entropy_coef times the mean entropy per token is subtracted.
    """


_NEUTRAL: dict[str, Any] = {
    name: x.default if name != "use_bias_correction_kl" else False
    for name, x in parameters(shared_arguments, 0).items()
}
_WITH = {
    "beta": ("kl_estimator", "use_bias_correction_kl"),
    "vllm_importance_sampling_mode": ("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
}
"""Arguments that mean nothing without another: a function that takes the other as its own is left to use it alone."""


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyLoss(Decorated):
    """A LossFn over `Rollouts`, and a function of `PolicyLogps`: per token (`per_token`) and of the batch (`mean`)."""

    reduction: Reduction = "token mean"
    level: Level = "token"
    """Whose ratio corrects the KL, where the loss has no argument importance_sampling_level."""

    unit: ClassVar[str] = "token"
    axes: ClassVar[int] = 2
    read = staticmethod(read_rollouts)

    @property
    def kind(self) -> str:
        """completions."""
        return "completions"

    def __call__(self, model: Any, batch: Rollouts, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        return evaluate([(1.0, self, arguments)], model, batch, key)

    def couples(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a token's loss depends on the batch: a quantile of its entropies does."""
        return self.couples_batch or self._value("top_entropy_quantile", arguments) < 1

    def refers(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it reads the log-probabilities of a reference."""
        beta = self._value("beta", arguments) if "beta" in self.shared else 0
        return self.reference or isinstance(beta, jax.Array) or beta > 0

    def reads(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """What it needs beside log-probabilities, with these arguments."""
        return self.needs if self._bonus(arguments) is None else (*self.needs, "entropy")

    def example(self, **arguments: Any) -> tuple[PolicyLogps]:
        """Completions as shapes and dtypes."""
        number, per_token = example_array(8), example_array(8, 5)
        ref = per_token if self.refers(arguments) else None
        sampled = per_token if self._value("vllm_importance_sampling_mode", arguments) != "none" else None
        mask = example_array(8, 5, dtype=bool)
        return (PolicyLogps(per_token, per_token, mask, per_token, number, ref, per_token, sampled),)

    def per_token(self, p: PolicyLogps, **arguments: Any) -> jax.Array:
        """The loss of each token, [B, T], with all but the entropy bonus; 0 outside the mask."""
        return self.each(p, **arguments)

    def each(self, *inputs: Any, **arguments: Any) -> jax.Array:
        """`per_token`."""
        (p,) = inputs
        if not isinstance(p, PolicyLogps):
            raise InputError(f"loss {self.name!r} is of completions: give it PolicyLogps, not {type(p).__name__}")
        check(self.name, {**self.own, **self.shared}, arguments)
        value = {name: self._value(name, arguments) for name in self.shared}
        loss_BT, _ = self._call(p, arguments)
        if (threshold := value.get("off_policy_mask_threshold")) is not None:
            drift_B = p.mean((p.old_BT if p.sampler_BT is None else p.sampler_BT) - p.policy_BT)
            stale_BT = (p.advantages_BT < 0) & (jax.lax.stop_gradient(drift_B) > threshold)[:, None]
            loss_BT = jnp.where(stale_BT, 0, loss_BT)
        if value.get("top_entropy_quantile", 1) < 1:
            loss_BT = jnp.where(top_entropy(p, value["top_entropy_quantile"]), loss_BT, 0)
        if (mode := value.get("vllm_importance_sampling_mode", "none")) != "none":
            bounds = [value[f"vllm_importance_sampling_clip_{end}"] for end in ("min", "max")]
            loss_BT *= sampling_ratio(p, mode, *bounds)
        if self.refers(arguments) and "beta" in self.shared:
            loss_BT += value["beta"] * self._kl(p, arguments)
        return jnp.where(p.mask_BT, loss_BT, 0)

    def means(self, p: PolicyLogps, **arguments: Any) -> list[tuple[str, float, Mean]]:
        """The loss before its division, and the entropy bonus: name, factor, mean."""
        policy = reduced(self.name, p, self.each(p, **arguments), self.reduction)
        if (coefficient := self._bonus(arguments)) is None:
            return [("", 1.0, policy)]
        if p.entropy_BT is None:
            raise InputError("entropy_coef reads the entropies of the policy: give entropy_BT")
        entropy = p.over_tokens(p.entropy_BT)
        if (quantile := self._value("top_entropy_quantile", arguments)) < 1:
            kept = top_entropy(p, quantile)
            mean = p.over_tokens(jnp.where(kept, p.entropy_BT, 0)).total / jnp.maximum(jnp.sum(kept), 1)
            entropy = Mean(mean * entropy.count, entropy.count)  # a count may not depend on the parameters
        return [("policy_loss", 1.0, policy), ("", -coefficient, entropy)]

    def mean(self, p: PolicyLogps, **arguments: Any) -> jax.Array:
        """The loss of the batch, a scalar."""
        return jnp.asarray(sum(factor * mean.value() for _, factor, mean in self.means(p, **arguments)))

    def metrics(self, p: PolicyLogps, **arguments: Any) -> Metrics:
        """Means over tokens or completions, under the names that TRL 1.16 logs where it has them."""
        found = {"ratio": p.over_tokens(p.ratio_BT)}
        if p.entropy_BT is not None:
            found["entropy"] = p.over_tokens(p.entropy_BT)
        if p.ref_BT is not None:
            found["kl"] = p.over_tokens(self._kl(p, arguments))
        if p.sampler_BT is not None:
            found["sampling/sampling_logp_difference/mean"] = p.over_tokens(jnp.abs(p.old_BT - p.sampler_BT))
        if (coefficient := self._bonus(arguments)) is not None:
            one = jnp.ones_like(p.policy_BT, shape=())
            found["entropy_coef"] = Mean(coefficient * one, one)
        for name, x in self._call(p, arguments)[1].items():
            found[name] = p.over_tokens(x) if x.ndim == 2 else p.over_completions(x)
        return {**found}

    def extremes(self, p: PolicyLogps, **arguments: Any) -> dict[str, jax.Array]:
        """The least and the largest share of a completion's tokens that are clipped; they do not add over batches."""
        (_, shown), found = self._call(p, arguments), {}
        for name, end, of in (("clip_ratio/low", "min", jnp.min), ("clip_ratio/high", "max", jnp.max)):
            if (x := shown.get(f"{name}_mean")) is not None:
                x_B = p.mean(x) if x.ndim == 2 else x
                edge = jnp.inf if end == "min" else -jnp.inf
                found[f"{name}_{end}"] = of(jnp.where(p.weight_B > 0, x_B, edge))
        return found

    def _call(self, p: PolicyLogps, arguments: Mapping[str, Any]) -> tuple[jax.Array, Shown]:
        """What fn returns: the loss of each token, and what else to log. Raises InputError for a wrong shape."""
        found = self.fn(p, **{name: x for name, x in arguments.items() if name in self.own})
        loss_BT, shown = found if type(found) is tuple and len(found) == 2 else (found, {})
        for name, x in shown.items():
            if getattr(x, "shape", None) not in (p.policy_BT.shape, p.weight_B.shape):
                raise InputError(f"{self.place} returned {name!r} to log, which is neither [B, T] nor [B]")
        return self.checked(loss_BT, p), {name: x.astype(p.policy_BT.dtype) for name, x in shown.items()}

    def _kl(self, p: PolicyLogps, arguments: Mapping[str, Any]) -> jax.Array:
        """The KL of each token as the loss adds it, [B, T]."""
        kl_BT = kl(p, self._value("kl_estimator", arguments))
        if self._value("use_bias_correction_kl", arguments):
            level = arguments.get("importance_sampling_level")
            if level is None and "importance_sampling_level" in self.own:
                level = self.own["importance_sampling_level"].default
            kl_BT *= p.ratio(level or self.level)
        return kl_BT

    def _bonus(self, arguments: Mapping[str, Any]) -> Any:
        """entropy_coef; None where it is 0, and where fn itself sees to it."""
        found = self._value("entropy_coef", arguments) if "entropy_coef" in self.shared else 0
        return found if isinstance(found, jax.Array) or found else None

    def _value(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """An argument's value: as given, its default, or the one without effect where this loss does not take it."""
        if name in arguments:
            return arguments[name]
        known = {**self.shared, **self.own}
        return known[name].default if name in known else _NEUTRAL[name]


def reduced(name: str, p: PolicyLogps, loss_BT: jax.Array, reduction: Reduction) -> Mean:
    """The loss of a batch before its division. Raises InputError for "constant" where the longest is not known."""
    if reduction in ("token mean", "batch token mean"):
        mean = p.over_tokens(loss_BT)
        return Mean(mean.total, p.items) if p.items is not None and reduction == "token mean" else mean
    if reduction == "sequence mean":
        return p.over_completions(p.mean(loss_BT))
    mean = p.over_completions(p.sum(loss_BT))
    if reduction == "sequence sum":
        return mean
    if p.max_length is None:
        raise InputError(f"loss {name!r} divides by the longest that a completion may be, in tokens: give max_length")
    return Mean(mean.total, mean.count * p.max_length)


def sampling_ratio(p: PolicyLogps, mode: Correction, low: float | None, high: float | None) -> jax.Array:
    """The ratio of the old policy and the generator after the correction of `mode`, [B, T], without gradient.

    Raises InputError where the generator's log-probabilities are missing.
    """
    if p.sampler_BT is None:
        raise InputError("vllm_importance_sampling_mode reads what the generator reported: give sampler_BT")
    level, _, what = mode.partition("_")
    difference_BT = p.old_BT - p.sampler_BT
    if level == "sequence":
        difference_BT = jnp.broadcast_to(p.sum(difference_BT)[:, None], difference_BT.shape)
    ratio_BT = jnp.exp(bounded(difference_BT))
    lowest, highest = low or 0.0, jnp.inf if high is None else high
    if what == "truncate":
        return jnp.clip(ratio_BT, lowest, highest)
    return jnp.where((ratio_BT >= lowest) & (ratio_BT <= highest), ratio_BT, 0)


def policy_loss(
    fn: Callable[..., Any] | None = None,
    *,
    reduction: Reduction = "token mean",
    reference: bool = False,
    couples_batch: bool = False,
    needs: Sequence[str] = (),
    level: Level = "token",
    without: Sequence[str] = (),
) -> Any:
    """Makes `fn(p: PolicyLogps, *, hyperparameters) -> loss_BT` a LossFn over `Rollouts`.

    fn returns one float per token, [B, T], of which those outside the mask are left out; or a pair of that and of what
    else to log: values [B, T] or [B] by name, of which the means are taken. reduction: one of REDUCTIONS.
    reference: whether fn itself reads `p.ref_BT`; the argument beta that every loss takes does so without it.
    couples_batch: whether completions depend on each other. needs: "entropy" for entropies with a gradient.
    level: whose ratio corrects the KL. without: shared arguments that the loss does not take; what is an argument of fn
    is left to fn. The head stays chunked, so [B, T, V] is never built. Raises InputError for an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise InputError(f"@policy_loss(reduction={reduction!r}): {nearest(str(reduction), REDUCTIONS)}")

    def decorate(fn: Callable[..., Any]) -> PolicyLoss:
        own = parameters(fn, 1)
        less = {*without, *own}
        less |= {name for other in less for name in _WITH.get(other, ())}
        shared = {name: x for name, x in parameters(shared_arguments, 0).items() if name not in less}
        return PolicyLoss(
            fn.__name__, fn, own, shared, reference, couples_batch, tuple(needs),
            reduction=reduction, level=level,
        )  # fmt: skip

    return decorate if fn is None else decorate(fn)
