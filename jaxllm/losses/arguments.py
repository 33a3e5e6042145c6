"""The arguments of losses: which values each may take, read from the function's signature and checked.

def my_loss(p: PairLogps, *, beta: Positive = 0.1): ...
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax

from jaxllm.types import InputError


class Rule(NamedTuple):
    """A condition on a number, for `Annotated`, and its words in a message: "must be {text}"."""

    text: str
    holds: Callable[[float], bool]


Number = Annotated[float, Rule("a finite number", math.isfinite)]
Positive = Annotated[float, Rule("above 0", lambda x: 0 < x < math.inf)]
NonNegative = Annotated[float, Rule("0 or above", lambda x: 0 <= x < math.inf)]
Fraction = Annotated[float, Rule("from 0 to 1", lambda x: 0 <= x <= 1)]
Smoothing = Annotated[float, Rule("from 0 to below 0.5", lambda x: 0 <= x < 0.5)]
PositiveSmoothing = Annotated[float, Rule("above 0 and below 0.5", lambda x: 0 < x < 0.5)]
NoSmoothing = Annotated[float, Rule("0: this loss has no label smoothing", lambda x: x == 0)]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


def weighted(part: str) -> tuple[str, float]:
    """A part of a sum as name and weight: "sigmoid:0.8" is ("sigmoid", 0.8), and "sigmoid" has 1."""
    name, _, text = part.rpartition(":")
    try:
        return name, float(text)
    except ValueError:
        return part, 1.0


def parameters(fn: Callable[..., Any], after: int) -> dict[str, inspect.Parameter]:
    """The parameters of `fn` by name, without the first `after`; annotations are evaluated where that is possible."""
    try:
        signature = inspect.signature(fn, eval_str=True)
    except NameError:  # an annotation imported for type checkers alone
        signature = inspect.signature(fn)
    return dict(list(signature.parameters.items())[after:])


def bind(
    loss: str, known: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], kind: str = "loss"
) -> dict[str, Any]:
    """The arguments with strings converted to the types of defaults. Raises InputError for any that is wrong.

    loss: its name; that of a function of another kind, such as "reward", with `kind`.
    """
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise InputError(f"{kind} {loss!r} needs {', '.join(missing)}: give it as --{kind}-args {missing[0]}=VALUE")
    bound = {name: _convert(loss, known[name], x, kind) if name in known else x for name, x in arguments.items()}
    check(loss, known, bound, kind)
    return bound


def check(loss: str, known: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], kind: str = "loss") -> None:
    """Raises InputError for an unknown argument or a value that it may not have. A traced value passes."""
    for name, value in arguments.items():
        if name not in known:
            raise InputError(f"{kind} {loss!r} has no argument {name!r}{suggestion(name, known)}")
        annotation, optional = _required(known[name].annotation)
        if optional and value is None:
            continue
        if typing.get_origin(annotation) is Literal and value not in (choices := typing.get_args(annotation)):
            raise InputError(f"{kind} {loss!r}: {name}={value!r} must be one of {', '.join(map(str, choices))}")
        for rule in getattr(annotation, "__metadata__", ()):
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if isinstance(rule, Rule) and not isinstance(value, jax.Array) and not (number and rule.holds(value)):
                raise InputError(f"{kind} {loss!r}: {name}={value!r} must be {rule.text}")


def _convert(loss: str, parameter: inspect.Parameter, x: Any, what: str) -> Any:
    """A string from the command line as the type of the parameter's default. Raises InputError."""
    annotation, optional = _required(parameter.annotation)
    if optional and isinstance(x, str) and x.lower() == "none":
        return None
    kind = type(parameter.default)
    if optional and parameter.default is None:
        kind = getattr(annotation, "__origin__", annotation)  # float of Annotated[float, ...]
    if not isinstance(x, str) or kind in (str, type(None)) or parameter.default is parameter.empty:
        return x
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[x.lower()]
        return kind(x)
    except (KeyError, ValueError):
        raise InputError(f"{what} {loss!r}: {parameter.name}={x!r} is not a {kind.__name__}") from None


def domain(parameter: inspect.Parameter) -> str:
    """The values that an argument may take, in words."""
    annotation, optional = _required(parameter.annotation)
    if typing.get_origin(annotation) is Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    rules = [rule.text for rule in getattr(annotation, "__metadata__", ()) if isinstance(rule, Rule)]
    text = "; ".join(rules) or ("" if annotation is parameter.empty else getattr(annotation, "__name__", ""))
    return f"{text}, or none" if optional else text


def _required(annotation: Any) -> tuple[Any, bool]:
    """An annotation without "| None", and whether it had it."""
    members = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    rest = [member for member in members if member is not type(None)]
    return (rest[0], True) if len(rest) == 1 and len(members) == 2 else (annotation, False)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest that is known, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}" if known else ""
