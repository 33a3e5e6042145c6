"""Losses by name, or from a file or a module of one's own.

A loss knows no model and no data format. `resolve` finds one and binds its arguments; whatever is wrong with either is
an error before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from jaxllm.losses import own_files, preference, reference_free, reward, tokens, unpaired
from jaxllm.losses.arguments import check, parameters
from jaxllm.losses.objective import PreferenceLoss, evaluate
from jaxllm.losses.pairs import PairLogps
from jaxllm.losses.unpaired import UnpairedLoss
from jaxllm.types import InputError, Metrics

_TOKENS = [tokens.cross_entropy, tokens.dft, tokens.focal, tokens.unlikelihood, tokens.jsd]
_MODULES = [preference, reference_free, unpaired, reward]

_LOSSES: dict[str, Callable[..., Metrics]] = {fn.__name__: fn for fn in _TOKENS}
_LOSSES["dpo"] = dataclasses.replace(preference.sigmoid, name="dpo")
for _module in _MODULES:
    _LOSSES |= {x.name: x for x in vars(_module).values() if isinstance(x, PreferenceLoss | UnpairedLoss)}


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A LossFn with its hyperparameters bound."""

    name: str
    function: Callable[..., Metrics]
    arguments: Mapping[str, Any]

    @property
    def couples_batch(self) -> bool:
        """Whether the examples of a batch depend on each other."""
        return getattr(self.function, "couples_batch", False)

    @property
    def reference(self) -> bool:
        """Whether it reads the log-probabilities of a reference."""
        return getattr(self.function, "reference", False)

    @property
    def needs(self) -> tuple[str, ...]:
        """What else it asks for: "kl" of a teacher, "mismatched" answers of the data."""
        return getattr(self.function, "needs", ())

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics:
        return self.function(model, batch, key, **self.arguments)

    def per_pair(self, p: Any) -> jax.Array:
        """The loss of each pair (`PairLogps`; of each answer for an unpaired loss, `AnswerLogps`), [B]."""
        return self._of_pairs().per_pair(p, **self.arguments)

    def mean(self, p: Any) -> jax.Array:
        """The loss of the batch, a scalar."""
        return self._of_pairs().mean(p, **self.arguments)

    def _of_pairs(self) -> Any:
        if not isinstance(self.function, PreferenceLoss | UnpairedLoss):
            raise InputError(f"loss {self.name!r} is no function of pairs: decorate it with @preference_loss")
        return self.function


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A weighted sum of preference losses that share one pass through the model. Each is logged as "loss/NAME"."""

    name: str
    parts: tuple[tuple[float, PreferenceLoss, Mapping[str, Any]], ...]

    @property
    def couples_batch(self) -> bool:
        """Whether the examples of a batch depend on each other."""
        return any(loss.couples_batch for _, loss, _ in self.parts)

    @property
    def reference(self) -> bool:
        """Whether one of them reads the log-probabilities of a reference."""
        return any(loss.reference for _, loss, _ in self.parts)

    @property
    def needs(self) -> tuple[str, ...]:
        """What else they ask for."""
        return tuple({need: None for _, loss, _ in self.parts for need in loss.needs})

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics:
        return evaluate(self.parts, model, batch, key)

    def per_pair(self, p: PairLogps) -> jax.Array:
        """The weighted sum of the losses of each pair, [B]."""
        return sum((weight * loss.per_pair(p, **arguments) for weight, loss, arguments in self.parts), 0 * p.chosen_B)

    def mean(self, p: PairLogps) -> jax.Array:
        """The loss of the batch, a scalar."""
        return sum((weight * loss.mean(p, **arguments) for weight, loss, arguments in self.parts), 0 * p.chosen_B[0])


def names() -> tuple[str, ...]:
    """The losses that have a name."""
    return tuple(_LOSSES)


def resolve(spec: str, /, **arguments: Any) -> Loss | Mixture:
    """The loss called `spec`, or "file.py:function", or "package.module:function", with these arguments.

    A mixture is "sigmoid:0.8+sft:1.0": a number after the last colon is the weight, 1 where there is none. Its
    arguments are "sigmoid.beta", or "beta" for every part that has one. Raises InputError for an unknown name, file,
    function or argument (with the nearest that exists) and for a value of the wrong type or out of range. Values may be
    strings, as typed on a command line.
    """
    parts = [_weighted(part) for part in spec.split("+")]
    if len(parts) > 1 or parts[0][1] != 1:
        return _mixture(spec, parts, arguments)
    return _bind(parts[0][0], arguments)


def _bind(spec: str, arguments: Mapping[str, Any]) -> Loss:
    function = _find(spec)
    _callable(spec, function)
    known = _arguments(function)
    for name in arguments:
        if name not in known:
            raise InputError(f"loss {spec!r} has no argument {name!r}{_nearest(name, known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise InputError(f"loss {spec!r} needs {', '.join(missing)}: give it as --loss-args {missing[0]}=VALUE")
    converted = {name: _convert(spec, known[name], x) for name, x in arguments.items()}
    check(spec, known, converted)
    return Loss(spec, function, converted)


def _callable(spec: str, function: Callable[..., Metrics]) -> None:
    """Raises InputError for a function that cannot be called as losses are."""
    if isinstance(function, PreferenceLoss | UnpairedLoss):
        return
    try:
        signature = inspect.signature(function)
    except ValueError:  # some that are not written in Python have none
        return
    try:
        signature.bind_partial(None, None, None)
    except TypeError:
        raise InputError(
            f"--loss {spec} takes {signature}, and a loss is called with (model, batch, key): decorate it with "
            "@token_loss or @preference_loss, or give it these arguments"
        ) from None


def _arguments(function: Callable[..., Metrics]) -> dict[str, inspect.Parameter]:
    """What follows the model, the batch and the key, whatever those are called."""
    after = {inspect.Parameter.KEYWORD_ONLY: 0, inspect.Parameter.POSITIONAL_OR_KEYWORD: 3}
    found = enumerate(parameters(function, 0).items())
    return {name: p for i, (name, p) in found if p.kind in after and i >= after[p.kind]}


def _weighted(part: str) -> tuple[str, float]:
    """ "sigmoid:0.8" -> ("sigmoid", 0.8)."""
    spec, _, text = part.rpartition(":")
    try:
        weight = float(text)
    except ValueError:
        return part, 1.0
    if not 0 < weight < math.inf:
        raise InputError(f"--loss {part}: the weight must be above 0")
    return spec, weight


def _mixture(spec: str, parts: list[tuple[str, float]], arguments: Mapping[str, Any]) -> Mixture:
    specs = [part for part, _ in parts]
    if twice := [part for part in specs if specs.count(part) > 1]:
        raise InputError(f"--loss {spec}: {twice[0]} is there twice; add its weights")
    known = {part: _arguments(_find(part)) for part in specs}
    given: dict[str, dict[str, Any]] = {part: {} for part in specs}
    for name, x in arguments.items():
        prefix, _, own = name.rpartition(".")
        if prefix and prefix not in given:
            raise InputError(f"--loss {spec} has no part {prefix!r} to give {own}={x} to{_nearest(prefix, specs)}")
        owners = [prefix] if prefix else [part for part in specs if own in known[part]]
        if not owners:
            every = {argument for part in specs for argument in known[part]}
            raise InputError(f"no part of --loss {spec} has an argument {own!r}{_nearest(own, every)}")
        for part in owners:
            if prefix or f"{part}.{own}" not in arguments:
                given[part][own] = x
    bound = []
    for part, weight in parts:
        loss = _bind(part, given[part])
        if not isinstance(loss.function, PreferenceLoss):
            raise InputError(f"--loss {spec}: {part} does not mix; a mixture is of losses of pairs")
        bound.append((weight, loss.function, loss.arguments))
    if len({function.read for _, function, _ in bound}) > 1:
        raise InputError(f"--loss {spec}: a loss of rewards and one of log-probabilities do not mix")
    return Mixture(spec, tuple(bound))


def _find(spec: str) -> Callable[..., Metrics]:
    if ":" not in spec:
        if spec not in _LOSSES:
            raise InputError(
                f"no loss is called {spec!r}{_nearest(spec, _LOSSES)}; one of your own is FILE.py:FUNCTION"
            )
        return _LOSSES[spec]
    source, _, name = spec.rpartition(":")
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"--loss {spec}: there is no file {path}")
        load = lambda: _run_file(path)  # noqa: E731
    else:
        load = lambda: importlib.import_module(source)  # noqa: E731
    try:
        module = load()
    except Exception as error:
        where = f" ({place})" if (place := own_files.place(error)) else ""
        raise InputError(f"--loss {spec}: {source} does not import: {type(error).__name__}: {error}{where}") from error
    own_files.FILES.add(module.__file__ or "")
    if not callable(found := getattr(module, name, None)):
        functions = [key for key, x in vars(module).items() if callable(x) and not key.startswith("_")]
        raise InputError(f"--loss {spec}: {source} has no function {name!r}{_nearest(name, functions)}")
    return found


def _run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("jaxllm_loss_" + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    own_files.FILES.add(str(spec.origin))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _convert(spec: str, parameter: inspect.Parameter, x: Any) -> Any:
    kind = type(parameter.default)
    if not isinstance(x, str) or kind in (str, type(None)) or parameter.default is parameter.empty:
        return x
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[x.lower()]
        return kind(x)
    except (KeyError, ValueError):
        raise InputError(f"loss {spec!r}: {parameter.name}={x!r} is not a {kind.__name__}") from None


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}" if known else ""
