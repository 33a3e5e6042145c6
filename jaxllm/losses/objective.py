"""`@preference_loss` makes a loss of a function of pairs; `evaluate` computes a weighted sum of such losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.losses.arguments import Divergence, Fraction, NoSmoothing, Number, check, parameters
from jaxllm.losses.decorated import Decorated, example_array
from jaxllm.losses.divergence import desensitise, policy_weight, with_scores
from jaxllm.losses.pairs import PairLogps, Tokens, read_pairs
from jaxllm.types import Answers, InputError, Mean, Metrics, Terms

Rewards = tuple[jax.Array, jax.Array]
"""The rewards that a loss gives the chosen and the rejected answers, [B] each."""


class Term(NamedTuple):
    """A part of a loss: factor times a mean over pairs."""

    loss_B: jax.Array
    count_B: jax.Array | None = None
    """How much each pair counts in the mean; 1 unless given."""
    factor: float = 1.0
    name: str = ""
    """What it is logged as; not at all by default."""


def implicit_reward(p: PairLogps, *, beta: float = 1.0) -> Rewards:
    """beta times the log-ratio of policy and reference; of the log-probability where there is no reference."""
    if p.ref_chosen_B is None:
        return beta * p.chosen_B, beta * p.rejected_B
    return beta * p.chosen_ratio_B, beta * p.rejected_ratio_B


def _with_reference(
    *,
    f_divergence: Divergence = "reverse_kl",
    f_alpha: Number = 0.5,
    ld_alpha: Fraction = 1.0,
    use_weighting: bool = False,
) -> None:
    """The arguments that every loss with a reference takes (divergence.py)."""


def _without_smoothing(*, label_smoothing: NoSmoothing = 0.0) -> None:
    """The argument of a loss without label smoothing: 0 is accepted, so that one set of arguments fits every loss."""


@dataclasses.dataclass(frozen=True, eq=False)
class PreferenceLoss(Decorated):
    """A LossFn over `Answers`, and a function of `PairLogps`: per pair (`per_pair`) and of the batch (`mean`)."""

    reward: Callable[..., Rewards] = implicit_reward
    """The rewards that the loss optimises, for the metrics."""
    read: Callable[..., PairLogps] = read_pairs
    """How the pairs are read from a model and a batch."""

    unit: ClassVar[str] = "pair"

    @property
    def kind(self) -> str:
        """pairs (against a reference), "pairs alone" (without), or rewards (of a reward model)."""
        return "rewards" if self.read is not read_pairs else "pairs" if self.reference else "pairs alone"

    def __call__(self, model: Any, batch: Answers, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        return evaluate([(1.0, self, arguments)], model, batch, key)

    def reads(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """What it needs beside log-probabilities, with these arguments."""
        return (*self.needs, "log_sum_sq") if arguments.get("use_weighting") else self.needs

    def per_pair(self, p: PairLogps, **arguments: Any) -> jax.Array:
        """The loss of each pair, [B], as in a batch of one; without a likelihood term that is counted by tokens."""
        return self.each(p, **arguments)

    def each(self, *inputs: Any, **arguments: Any) -> jax.Array:
        """`per_pair`."""
        return self.terms(*inputs, **arguments)[0].loss_B

    def example(self, **arguments: Any) -> tuple[PairLogps]:
        """Pairs as shapes and dtypes."""
        number, per_token = example_array(8), example_array(8, 5)
        tokens = Tokens(
            per_token,
            example_array(8, 5, dtype=bool),
            per_token if self.reference else None,
            per_token if "log_sum_sq" in self.reads(arguments) else None,
            per_token if "kl" in self.needs else None,
        )
        ref = number if self.reference else None
        return (PairLogps(number, number, ref, ref, number, number, number, number, tokens, tokens),)

    def mean(self, p: PairLogps, **arguments: Any) -> jax.Array:
        """The loss of the batch: means by weight over pairs, and over tokens for a term that is counted by tokens."""
        return jnp.asarray(sum(factor * mean.value() for _, factor, mean in self.means(p, **arguments)))

    def terms(self, p: PairLogps, **arguments: Any) -> list[Term]:
        """The loss as a sum of terms; the first is the loss itself. Raises InputError for numbers of a wrong shape."""
        seen, own = self._prepare(p, arguments)
        found = self.fn(seen, **own)
        parts = [t if isinstance(t, Term) else Term(t) for t in (found if type(found) is tuple else (found,))]
        for term in parts:
            self.checked(term.loss_B, p)
            if term.count_B is not None:
                self.checked(term.count_B, p)
        if arguments.get("use_weighting"):
            parts[0] = parts[0]._replace(loss_B=parts[0].loss_B * policy_weight(p))
        return parts

    def means(self, p: PairLogps, **arguments: Any) -> list[tuple[str, float, Mean]]:
        """The terms of the loss before their division: name, factor, mean."""
        return [(t.name, t.factor, _mean(t, p)) for t in self.terms(p, **arguments)]

    def metrics(self, p: PairLogps, **arguments: Any) -> Metrics:
        """Rewards and log-probabilities, under the names that TRL 1.16's DPOTrainer logs."""
        seen, own = self._prepare(p, arguments)
        known = parameters(self.reward, 1)
        values = {name: x.default for name, x in self.own.items()} | own
        chosen_B, rejected_B = self.reward(seen, **{name: x for name, x in values.items() if name in known})
        found = {
            "rewards/chosen": chosen_B,
            "rewards/rejected": rejected_B,
            "rewards/accuracies": (chosen_B > rejected_B).astype(chosen_B.dtype),
            "rewards/margins": chosen_B - rejected_B,
        }
        if self.read is read_pairs:  # a reward model has no log-probabilities
            found |= {"logps/chosen": p.chosen_B, "logps/rejected": p.rejected_B}
        return {name: _mean(Term(x_B), p) for name, x_B in found.items()}

    def _prepare(self, p: PairLogps, arguments: Mapping[str, Any]) -> tuple[PairLogps, dict[str, Any]]:
        """The pairs after the shared arguments are applied, and the loss's own arguments. Raises InputError."""
        check(self.name, {**self.own, **self.shared}, arguments)
        if self.reference:
            if p.ref_chosen_B is None or p.ref_rejected_B is None:
                raise InputError(f"loss {self.name!r} compares with a reference: give ref_chosen and ref_rejected")
            shared = {name: arguments.get(name, x.default) for name, x in self.shared.items()}
            if shared["ld_alpha"] != 1:
                p = desensitise(p, shared["ld_alpha"])
            p = with_scores(p, shared["f_divergence"], shared["f_alpha"])
        return p, {name: x for name, x in arguments.items() if name in self.own}


def evaluate(
    parts: Sequence[tuple[float, Any, Mapping[str, Any]]], model: Any, batch: Any, key: jax.Array | None
) -> Metrics:
    """The metrics of a weighted sum of losses of one kind, `PreferenceLoss` or `PolicyLoss`.

    It takes one pass through the model; rewards, or shares of what is clipped, are those of the first loss.
    """
    first = parts[0][1]
    needs = {need for _, loss, arguments in parts for need in loss.reads(arguments)}
    reference = any(loss.refers(arguments) for _, loss, arguments in parts)
    p = first.read(model, batch, key, reference=reference, needs=needs)
    metrics = first.metrics(p, **parts[0][2])
    objective: Terms = ()
    for weight, loss, arguments in parts:
        named = loss.means(p, **arguments)
        terms = tuple((factor, mean) for _, factor, mean in named)
        metrics.update({name: mean for name, _, mean in named if name})
        if len(parts) > 1:
            metrics[f"loss/{loss.name}"] = terms if len(terms) > 1 else terms[0][1]
        objective += tuple((weight * factor, mean) for factor, mean in terms)
    single = len(objective) == 1 and objective[0][0] == 1
    return {"loss": objective[0][1] if single else objective, **metrics}


def _mean(term: Term, p: PairLogps) -> Mean:
    """Over pairs of weight above 0: an absent pair adds nothing, even where its loss is not finite."""
    count_B = p.weight_B if term.count_B is None else p.weight_B * term.count_B
    return Mean(jnp.sum(jnp.where(p.weight_B > 0, count_B * term.loss_B, 0)), jnp.sum(count_B))


def preference_loss(
    fn: Callable[..., Any] | None = None,
    *,
    reference: bool = True,
    couples_batch: bool = False,
    needs: Sequence[str] = (),
    reward: Callable[..., Rewards] = implicit_reward,
    read: Callable[..., PairLogps] = read_pairs,
) -> Any:
    """Makes `fn(p: PairLogps, *, hyperparameters) -> loss_B` a LossFn over `Answers`.

    fn returns one float per pair, or a tuple: that loss, then `Term`s that are added to it, each with its own count.
    reference: whether fn reads the reference's log-probabilities; the loss then takes f_divergence, f_alpha, ld_alpha
    and use_weighting too. couples_batch: whether pairs depend on each other. needs: "kl" and "log_sum_sq" of `Tokens`.
    reward: the rewards that the loss optimises, for the metrics; it is given the hyperparameters that it names.
    read: how pairs are read from a model and a batch. The head stays chunked, so [B, T, V] is never built.
    """

    def decorate(fn: Callable[..., Any]) -> PreferenceLoss:
        own = parameters(fn, 1)
        shared = parameters(_with_reference, 0) if reference else {}
        if "label_smoothing" not in own:
            shared |= parameters(_without_smoothing, 0)
        return PreferenceLoss(fn.__name__, fn, own, shared, reference, couples_batch, tuple(needs), reward, read)

    return decorate if fn is None else decorate(fn)
