"""Losses by name, by FILE.py:FUNCTION, or as a weighted sum of several, with their arguments checked and bound."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxllm.losses import crf, policy, preference, reference_free, reward, texts, tokens, unpaired
from jaxllm.losses.arguments import bind, parameters, suggestion, weighted
from jaxllm.losses.decorated import Decorated
from jaxllm.losses.objective import PreferenceLoss, evaluate
from jaxllm.losses.policy_objective import PolicyLoss
from jaxllm.losses.unpaired import UnpairedLoss
from jaxllm.losses.user_code import cause, load
from jaxllm.types import InputError, Mean, Metrics, UserCodeError, value

LossFunction = Callable[..., Metrics]

_LOSSES: dict[str, LossFunction] = {
    "cross_entropy": tokens.cross_entropy,
    "dft": tokens.dft,
    "focal": tokens.focal,
    "unlikelihood": tokens.unlikelihood,
    "jsd": tokens.jsd,
    "binary_cross_entropy": texts.binary_cross_entropy,
    "mse": texts.mse,
    "huber": texts.huber,
    "crf": crf.crf,
    "dpo": dataclasses.replace(preference.sigmoid, name="dpo"),
}
for _module in (preference, reference_free, unpaired, reward, policy):
    _LOSSES |= {x.name: x for x in vars(_module).values() if isinstance(x, PreferenceLoss | UnpairedLoss | PolicyLoss)}


class Part(NamedTuple):
    """One loss of a weighted sum, with its arguments."""

    weight: float
    function: LossFunction
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A LossFn with its arguments bound: one loss, or a weighted sum of losses of pairs, or of policy losses.

    The losses of a sum share one pass through the model, and each is logged as "loss/NAME".
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def function(self) -> LossFunction:
        """The loss itself; of a sum, the first."""
        return self.parts[0].function

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of `function`."""
        return self.parts[0].arguments

    @property
    def kind(self) -> str:
        """tokens, sentences, texts, pairs, "pairs alone", answers, rewards or completions; "" for a bare function."""
        return getattr(self.function, "kind", "")

    @property
    def own(self) -> Mapping[str, inspect.Parameter]:
        """The arguments that `function` takes, without those shared by all losses of its kind."""
        return {name: p for name, p in _arguments(self.name, self.function).items() if name not in self.shared}

    @property
    def shared(self) -> Mapping[str, inspect.Parameter]:
        """The arguments that every loss of this kind takes."""
        return getattr(self.function, "shared", {})

    @property
    def couples_batch(self) -> bool:
        """Whether the examples of a batch depend on each other."""
        return self._any("couples", "couples_batch")

    @property
    def reference(self) -> bool:
        """Whether it reads the log-probabilities of a reference."""
        return self._any("refers", "reference")

    @property
    def needs(self) -> tuple[str, ...]:
        """What else it reads: "kl" (of a teacher), "log_sum_sq", "mismatched" (answers to other prompts)."""
        return tuple({need: None for part in self.parts for need in getattr(part.function, "needs", ())})

    @property
    def mixed(self) -> bool:
        """Whether it is a weighted sum, of one loss too."""
        return len(self.parts) > 1 or self.parts[0].weight != 1

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics:
        if self.mixed:
            return evaluate(self.parts, model, batch, key)
        return _checked(self.name, self.function(model, batch, key, **self.arguments))

    def per_pair(self, p: Any) -> jax.Array:
        """The loss of each pair (`PairLogps`; of each answer for an unpaired loss, `AnswerLogps`), [B]."""
        return self._sum("per_pair", p)

    def per_token(self, p: Any) -> jax.Array:
        """The loss of each token of completions (`PolicyLogps`), [B, T]."""
        return self._sum("per_token", p)

    def mean(self, p: Any) -> jax.Array:
        """The loss of the batch, a scalar."""
        return self._sum("mean", p)

    def metrics(self, p: Any) -> dict[str, jax.Array]:
        """What a step logs beside the loss, for pairs or completions; of completions their extremes too, as scalars."""
        function, arguments = self.function, self.arguments
        if not isinstance(function, PreferenceLoss | PolicyLoss):
            raise InputError(f"loss {self.name!r} has no metrics: it is no loss of pairs or completions")
        found = dict(function.metrics(p, **arguments))
        found |= {name: mean for name, _, mean in function.means(p, **arguments) if name}
        extremes = function.extremes(p, **arguments) if isinstance(function, PolicyLoss) else {}
        return {name: value(metric) for name, metric in found.items()} | extremes

    def _any(self, method: str, attribute: str) -> bool:
        """Whether a part says so: by a method, with its arguments; a bare function by an attribute."""
        return any(
            getattr(fn, method)(arguments) if isinstance(fn, Decorated) else getattr(fn, attribute, False)
            for _, fn, arguments in self.parts
        )

    def _sum(self, method: str, p: Any) -> Any:
        if not hasattr(self.function, method):
            units = "pairs or completions: decorate it with @preference_loss or @policy_loss"
            if method == "per_token":
                units = "completions: decorate it with @policy_loss"
            raise InputError(f"loss {self.name!r} is no function of {units}")
        found = [getattr(part.function, method)(p, **part.arguments) for part in self.parts]
        return sum(part.weight * x for part, x in zip(self.parts, found, strict=True)) if self.mixed else found[0]


def names() -> tuple[str, ...]:
    """The losses that have a name."""
    return tuple(_LOSSES)


def resolve(spec: str | LossFunction, /, **arguments: Any) -> Loss:
    """The loss called `spec`, or "file.py:function", or "package.module:function", or a function, with these arguments.

    A mixture is "sigmoid:0.8+sft:1.0": a number after the last colon is the weight, 1 where there is none. Its
    arguments are "sigmoid.beta", or "beta" for every part that has one. Values may be strings, as typed on a command
    line. A decorated function from a user's file is traced on small shapes, so that its mistakes show here.
    Raises InputError for an unknown name, file, function or argument (with the nearest that exists), for a value of the
    wrong type or out of range, and for a function that fails or does not return one number per pair, answer or token.
    """
    if not isinstance(spec, str):
        name = getattr(spec, "name", getattr(spec, "__name__", "loss"))
        return Loss(name, (Part(1.0, spec, _bound(name, spec, arguments)),))
    weighted = [_weighted(part) for part in spec.split("+")]
    parts = dict(weighted)
    for part in parts:
        if [name for name, _ in weighted].count(part) > 1:
            raise InputError(f"--loss {spec}: {part} is there twice; add its weights")
    functions = {part: _find(part) for part in parts}
    given = _given(spec, functions, arguments) if len(parts) > 1 else dict.fromkeys(parts, arguments)
    loss = Loss(spec, tuple(Part(parts[part], fn, _bound(part, fn, given[part])) for part, fn in functions.items()))
    if loss.mixed:
        for part, fn in functions.items():
            if not isinstance(fn, PreferenceLoss | PolicyLoss):
                raise InputError(f"--loss {spec}: {part} does not mix; a mixture is of losses of pairs or completions")
        if len({type(fn) for fn in functions.values()}) > 1:
            raise InputError(f"--loss {spec}: losses of pairs and of completions do not mix")
        if len({getattr(fn, "read", None) for fn in functions.values()}) > 1:
            raise InputError(f"--loss {spec}: a loss of rewards and one of log-probabilities do not mix")
    return loss


def _weighted(part: str) -> tuple[str, float]:
    spec, weight = weighted(part)
    if not 0 < weight < math.inf:
        raise InputError(f"--loss {part}: the weight must be above 0")
    return spec, weight


def _find(spec: str) -> LossFunction:
    if ":" in spec:
        return load(spec)
    if spec not in _LOSSES:
        raise InputError(
            f"no loss is called {spec!r}{suggestion(spec, _LOSSES)}; a loss in your file is FILE.py:FUNCTION"
        )
    return _LOSSES[spec]


def _bound(spec: str, function: LossFunction, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, converted and checked against the function's signature. Raises InputError."""
    bound = bind(spec, _arguments(spec, function), arguments)
    if ":" in spec and isinstance(function, Decorated):
        try:
            jax.eval_shape(lambda *xs: function.each(*xs, **bound), *function.example(**bound))
        except InputError:
            raise
        except Exception as error:
            raise UserCodeError(f"--loss {spec} does not run on {function.unit}s: {cause(error)}") from error
    return bound


def _arguments(spec: str, function: LossFunction) -> dict[str, inspect.Parameter]:
    """The arguments of a loss, after the model, the batch and the key. Raises InputError if it does not take these."""
    if isinstance(function, Decorated):
        return {**function.own, **function.shared}
    known: dict[str, inspect.Parameter] = {}
    try:
        known = parameters(function, 0)
        inspect.Signature(list(known.values())).bind_partial(None, None, None)
    except (TypeError, ValueError):  # the latter of functions that are not written in Python
        raise InputError(
            f"--loss {spec} takes ({', '.join(known)}), and a loss is called with (model, batch, key): decorate it "
            "with @token_loss or @preference_loss, or give it these arguments"
        ) from None
    after = {inspect.Parameter.KEYWORD_ONLY: 0, inspect.Parameter.POSITIONAL_OR_KEYWORD: 3}
    return {name: p for i, (name, p) in enumerate(known.items()) if p.kind in after and i >= after[p.kind]}


def _given(spec: str, functions: Mapping[str, LossFunction], arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of each part of a mixture: "sigmoid.beta" of one part, before "beta" of every part that has it."""
    known = {part: _arguments(part, fn) for part, fn in functions.items()}
    given: dict[str, dict[str, Any]] = {part: {} for part in functions}
    for name, x in arguments.items():
        prefix, _, own = name.rpartition(".")
        if prefix and prefix not in given:
            raise InputError(
                f"--loss {spec} has no part {prefix!r} to give {own}={x} to{suggestion(prefix, functions)}"
            )
        owners = [prefix] if prefix else [part for part in functions if own in known[part]]
        if not owners:
            every = {argument for part in functions for argument in known[part]}
            raise InputError(f"no part of --loss {spec} has an argument {own!r}{suggestion(own, every)}")
        for part in owners:
            if prefix or f"{part}.{own}" not in arguments:
                given[part][own] = x
    return given


def _checked(name: str, metrics: Any) -> Metrics:
    """Raises InputError for what is not metrics with a "loss" of sums and counts."""
    if not isinstance(metrics, dict) or "loss" not in metrics:
        what = f"metrics {', '.join(metrics)}" if isinstance(metrics, dict) else f"a {type(metrics).__name__}"
        raise InputError(f'{name} returned {what}; a dictionary with "loss": Mean(total, count) is wanted')
    for key, metric in metrics.items():
        for mean in (metric,) if isinstance(metric, Mean) else [term[-1] for term in metric]:
            if shape := getattr(mean.total, "shape", ()) or getattr(mean.count, "shape", ()):
                raise InputError(f"{name} returned {key!r} as sums of shape {list(shape)}; scalars are wanted")
    return metrics
