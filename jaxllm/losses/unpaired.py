"""Preference losses of single answers, each labelled desirable or undesirable. Here the axis B is of answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import NonNegative, Positive, parameters
from jaxllm.losses.decorated import Decorated, example_array
from jaxllm.losses.pairs import ragged, read_tokens
from jaxllm.types import Answers, Mean, Metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnswerLogps:
    """The log-probabilities of single answers."""

    logps_B: jax.Array
    """float32, nats. The policy's log-probability of the answer, summed over its tokens."""
    ref_logps_B: jax.Array
    """float32, nats. The reference's log-probability of the answer, summed over its tokens."""
    side_B: jax.Array
    """int32. +1 desirable, -1 undesirable, 0 an answer to another prompt, which only the KL estimate reads."""
    weight_B: jax.Array
    """float32. How much the answer counts in the mean; 0 in a slot without an answer."""

    @property
    def ratio_B(self) -> jax.Array:
        """float32, nats. logps_B - ref_logps_B: the log-ratio of policy and reference."""
        return self.logps_B - self.ref_logps_B

    def mean(self, values_B: jax.Array, which_B: jax.Array) -> Mean:
        """The weighted mean over the answers where `which_B` is true."""
        weight_B = jnp.where(which_B, self.weight_B, 0)
        return Mean(jnp.sum(jnp.where(weight_B > 0, weight_B * values_B, 0)), jnp.sum(weight_B))

    @staticmethod
    def of(logps: Sequence[Any], ref_logps: Sequence[Any], side: Any, *, weight: Any = None) -> AnswerLogps:
        """From one list of per-token log-probabilities per answer; traceable, and differentiable in the entries.

        Raises InputError where lengths differ.
        """
        tokens = ragged("logps", logps, ref_logps, None)
        assert tokens.ref_logps_BT is not None
        sums_B = tokens.sum(tokens.logps_BT)
        weight_B = jnp.ones_like(sums_B) if weight is None else jnp.asarray(weight, sums_B.dtype)
        return AnswerLogps(sums_B, tokens.sum(tokens.ref_logps_BT), jnp.asarray(side), weight_B)


def read_answers(model: Any, answers: Answers, key: jax.Array | None) -> AnswerLogps:
    """The answers in packed rows. Raises InputError where there is no reference."""
    tokens, answer_BT = read_tokens(model, answers, key, reference=True)
    own_BAT = answer_BT[:, None, :] == jnp.arange(answers.side_BA.shape[1])[None, :, None]
    sums = lambda x_BT: jnp.sum(jnp.where(own_BAT, x_BT[:, None, :], 0), axis=2).reshape(-1)  # noqa: E731
    flat = (answers.side_BA.reshape(-1), answers.weight_BA.reshape(-1))
    return AnswerLogps(sums(tokens.logps_BT), sums(tokens.ref_logps_BT), *flat)


@dataclasses.dataclass(frozen=True, eq=False)
class UnpairedLoss(Decorated):
    """A LossFn over `Answers`, and a function of `AnswerLogps`: per answer (`per_pair`) and of the batch (`mean`)."""

    unit: ClassVar[str] = "answer"

    def __call__(self, model: Any, batch: Answers, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        a = read_answers(model, batch, key)
        beta = arguments.get("beta", self.own["beta"].default if "beta" in self.own else 1.0)
        chosen_B, rejected_B = a.side_B == 1, a.side_B == -1
        desirable, undesirable = a.mean(beta * a.ratio_B, chosen_B), a.mean(beta * a.ratio_B, rejected_B)
        return {
            "loss": self._mean(a, **arguments),
            "kl": Mean(kl_estimate(a), jnp.ones_like(a.logps_B, shape=())),
            "rewards/chosen": desirable,
            "rewards/rejected": undesirable,
            "rewards/margins": ((1.0, desirable), (-1.0, undesirable)),
            "logps/chosen": a.mean(a.logps_B, chosen_B),
            "logps/rejected": a.mean(a.logps_B, rejected_B),
        }

    def per_pair(self, a: AnswerLogps, **arguments: Any) -> jax.Array:
        """The loss of each answer, [B]; an answer of side 0, which the mean leaves out, counts as undesirable here."""
        return self.each(a, **arguments)

    def example(self, **arguments: Any) -> tuple[AnswerLogps]:
        """Answers as shapes and dtypes."""
        number = example_array(8)
        return (AnswerLogps(number, number, example_array(8, dtype=jnp.int32), number),)

    def mean(self, a: AnswerLogps, **arguments: Any) -> jax.Array:
        """The loss of the batch: the mean over the desirable and undesirable answers."""
        return self._mean(a, **arguments).value()

    def _mean(self, a: AnswerLogps, **arguments: Any) -> Mean:
        return a.mean(self.each(a, **arguments), a.side_B != 0)


def kl_estimate(a: AnswerLogps) -> jax.Array:
    """The mean log-ratio of mismatched answers, at least 0, without a gradient; 0 where there are none (a scalar)."""
    return jax.lax.stop_gradient(jnp.maximum(0, a.mean(a.ratio_B, a.side_B == 0).value()))


def unpaired_loss(
    fn: Callable[..., jax.Array] | None = None, *, couples_batch: bool = False, needs: Sequence[str] = ()
) -> Any:
    """Makes `fn(a: AnswerLogps, *, beta, hyperparameters) -> loss_B` a LossFn over `Answers`.

    fn returns one float per answer. couples_batch: whether answers depend on each other. needs: "mismatched" asks the
    data for answers of side 0. The rewards that are logged are beta times the log-ratio.
    """

    def decorate(fn: Callable[..., jax.Array]) -> UnpairedLoss:
        return UnpairedLoss(fn.__name__, fn, parameters(fn, 1), {}, True, couples_batch, tuple(needs))

    return decorate if fn is None else decorate(fn)


@unpaired_loss(couples_batch=True, needs=("mismatched",))
def kto(
    a: AnswerLogps,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> jax.Array:
    """w_d (1 - s(b (u - z))) if desirable, w_u (1 - s(b (z - u))) if not (Ethayarajh et al. 2024, equations 7 and 8).

    u is the log-ratio of policy and reference, z their KL divergence as mismatched answers estimate it, s the sigmoid.
    """
    return _by_side(a, beta * (a.ratio_B - kl_estimate(a)), desirable_weight, undesirable_weight)


@unpaired_loss
def apo_zero_unpaired(
    a: AnswerLogps,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> jax.Array:
    """w_d (1 - s(b u)) if desirable, w_u s(b u) if not: KTO with z = 0 (D'Oosterlinck et al. 2024)."""
    return _by_side(a, beta * a.ratio_B, desirable_weight, undesirable_weight)


def _by_side(a: AnswerLogps, value_B: jax.Array, desirable: float, undesirable: float) -> jax.Array:
    lost_B, won_B = jax.nn.sigmoid(-value_B), jax.nn.sigmoid(value_B)
    return jnp.where(a.side_B == 1, desirable * lost_B, undesirable * won_B)
