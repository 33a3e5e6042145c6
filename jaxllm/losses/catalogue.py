"""What the library says of a loss: its formula and paper, its arguments and what they may be."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

from jaxllm.losses.arguments import Rule, parameters
from jaxllm.losses.objective import PreferenceLoss
from jaxllm.losses.reward import read_rewards
from jaxllm.losses.unpaired import UnpairedLoss

KINDS = {
    "tokens": "per token, from logits",
    "pairs": "per pair of answers, against a reference",
    "pairs alone": "per pair of answers, without a reference",
    "answers": "per answer, desirable or not, against a reference",
    "rewards": "per pair of answers, from a reward model's numbers",
}
"""What losses are functions of."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One loss, as its own docstring and signature tell it."""

    name: str
    kind: str
    formula: str
    """The first paragraph: formula, name and paper."""
    more: str
    """The other paragraphs."""
    arguments: tuple[tuple[str, str, str], ...]
    """(name, default, what it may be) of each of its own."""
    shared: tuple[tuple[str, str, str], ...]
    """The same for those that all losses of its kind have."""
    couples_batch: bool
    """Whether the examples of a batch depend on each other."""


def entry(name: str, function: Callable[..., Any]) -> Entry:
    """What there is to tell of a loss."""
    written = function.fn if isinstance(function, PreferenceLoss | UnpairedLoss) else function
    first, _, rest = inspect.cleandoc(written.__doc__ or "").partition("\n\n")
    known = {n: p for n, p in parameters(function, 0).items() if p.kind is p.KEYWORD_ONLY}
    shared = function.shared if isinstance(function, PreferenceLoss) else {}
    return Entry(
        name,
        kind_of(function),
        " ".join(first.split()),
        " ".join(rest.split()),
        tuple(_argument(p) for n, p in known.items() if n not in shared),
        tuple(_argument(p) for n, p in known.items() if n in shared),
        getattr(function, "couples_batch", False),
    )


def kind_of(function: Callable[..., Any]) -> str:
    """One of KINDS: what a loss is a function of; "tokens" for one that is in no way marked."""
    if isinstance(function, UnpairedLoss):
        return "answers"
    if isinstance(function, PreferenceLoss):
        return "rewards" if function.read is read_rewards else "pairs" if function.reference else "pairs alone"
    return "tokens"


def _argument(parameter: inspect.Parameter) -> tuple[str, str, str]:
    default = "needed" if parameter.default is parameter.empty else str(parameter.default)
    return parameter.name, default, _domain(parameter)


def _domain(parameter: inspect.Parameter) -> str:
    """What values an argument may take, in words."""
    annotation = parameter.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    rules = [rule.text for rule in getattr(annotation, "__metadata__", ()) if isinstance(rule, Rule)]
    return "; ".join(rules) or getattr(annotation, "__name__", "")
