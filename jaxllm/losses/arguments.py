"""What values an argument of a loss may take: part of its signature, and checked before anything is loaded.

def my_loss(p: PairLogps, *, beta: Positive = 0.1): ...
"""

from __future__ import annotations

import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax

from jaxllm.types import InputError


class Rule(NamedTuple):
    """A condition on a number, for `Annotated`, and how to say it: "must be {text}"."""

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


def parameters(fn: Callable[..., Any], after: int) -> dict[str, inspect.Parameter]:
    """The parameters of `fn` by name, without the first `after`, annotations evaluated where they can be."""
    try:
        signature = inspect.signature(fn, eval_str=True)
    except NameError:  # an annotation imported for type checkers alone
        signature = inspect.signature(fn)
    return dict(list(signature.parameters.items())[after:])


def check(loss: str, known: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    """Raises InputError that names the loss, the argument and what it may be. A traced value passes."""
    for name, value in arguments.items():
        annotation = known[name].annotation
        if typing.get_origin(annotation) is Literal and value not in (choices := typing.get_args(annotation)):
            raise InputError(f"loss {loss!r}: {name}={value!r} must be one of {', '.join(map(str, choices))}")
        for rule in getattr(annotation, "__metadata__", ()):
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if isinstance(rule, Rule) and not isinstance(value, jax.Array) and not (number and rule.holds(value)):
                raise InputError(f"loss {loss!r}: {name}={value!r} must be {rule.text}")
