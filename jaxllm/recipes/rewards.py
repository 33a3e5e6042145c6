"""Rewards of completions by name, by FILE.py:FUNCTION, or as a weighted sum of several, and those that are built in.

    def mine(prompt, completion, row, *, argument=1.0): ...       -> float
    def mine(prompts, completions, rows, *, argument=1.0): ...    -> list of floats

prompt and completion are texts, without special tokens; row is the row of the data set, with all its columns. None or
NaN is a reward that is missing. Where the first parameter is called `prompts` the function takes lists.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.data.sources import Row
from jaxllm.losses import user_code
from jaxllm.losses.arguments import NonNegative, parameters, weighted
from jaxllm.losses.arguments import bind as bind_arguments
from jaxllm.types import InputError, nearest

Function = Callable[..., Any]

NUMBER = re.compile(r"-?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def exact(prompt: str, completion: str, row: Row, *, column: str = "answer") -> float:
    """1 where the completion is what the row's column says, white space around them aside; else 0."""
    return float(completion.strip() == str(row[column]).strip())


def numeric(
    prompt: str, completion: str, row: Row, *, column: str = "answer", tolerance: NonNegative = 1e-6
) -> float | None:
    """1 where the last number in the completion is the last in the row's column, to this relative tolerance; else 0.

    None where the column has no number.
    """
    right, said = last_number(str(row[column])), last_number(completion)
    if right is None:
        return None
    return float(said is not None and abs(said - right) <= tolerance * max(1.0, abs(right)))


def format(prompt: str, completion: str, row: Row, *, pattern: str = r"\S[\s\S]*") -> float:
    """1 where the whole completion matches a regular expression of Python's `re`, else 0; by default one not empty."""
    return float(re.fullmatch(pattern, completion) is not None)


def length(prompt: str, completion: str, row: Row, *, shortest: int = 0, longest: int = 1000) -> float:
    """0 for a completion of `shortest` to `longest` characters; below 0, down to -1, by the share that is off."""
    over, under = len(completion) - longest, shortest - len(completion)
    return -min(1.0, max(over / max(longest, 1), under / max(shortest, 1), 0.0))


def last_number(text: str) -> float | None:
    """The last number in a text, as in "that is 1,234.5 in all"; None without one."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").rstrip(".") or "nan") if found else None


REWARDS: dict[str, Function] = {"exact": exact, "numeric": numeric, "format": format, "length": length}
"""Rewards that have a name."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward function with its arguments bound, and its weight in the sum."""

    name: str
    weight: float
    function: Function
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def takes_lists(self) -> bool:
        """Whether it is called once for all completions."""
        return next(iter(inspect.signature(self.function).parameters), "") == "prompts"

    @property
    def columns(self) -> set[str] | None:
        """The columns of a row that it reads; None where that is not known, of a function that is not built in."""
        if self.together:
            return set()
        if self.function not in REWARDS.values():
            return None
        default = inspect.signature(self.function).parameters.get("column")
        return set() if default is None else {str(self.arguments.get("column", default.default))}

    @property
    def together(self) -> bool:
        """Whether all processes call it with all completions, as a model on all devices wants it, and no limit."""
        return bool(getattr(self.function, "together", False))

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]) -> Any:
        """What the function returns: of one that takes no lists, for one completion each."""
        if self.takes_lists:
            return self.function(list(prompts), list(completions), list(rows), **self.arguments)
        return self.function(prompts[0], completions[0], rows[0], **self.arguments)


def find_rewards(spec: str, texts: Sequence[str], more: Mapping[str, Function] | None = None) -> list[Reward]:
    """The rewards that `--reward` names, with the arguments of `--reward-args`.

    spec: "exact", "exact:1+format:0.2", "my_rewards.py:brief:0.5+numeric"; a number after the last colon is the weight,
    1 where there is none. texts: NAME=VALUE for every function that has the argument, or REWARD.NAME=VALUE for one.
    more: other functions by name. Raises InputError for what is unknown, and for an argument of a wrong kind.
    """
    known = {**REWARDS, **(more or {})}
    found: list[Reward] = []
    for part in spec.split("+"):
        name, weight = weighted(part.strip())
        if ":" in name:
            function: Function = user_code.load(name, "--reward")
        elif name in known:
            function = known[name]
        else:
            raise InputError(f"--reward {name}: {nearest(name, known)}, or FILE.py:FUNCTION")
        short = name.rpartition(":")[2]
        if short in {one.name for one in found}:
            raise InputError(f"--reward {spec}: {short} is there twice; add its weights")
        found.append(Reward(short, weight, function))
    taken: dict[str, dict[str, str]] = {one.name: {} for one in found}
    takes = {one.name: parameters(one.function, 3) for one in found}
    for text in texts:
        key, equals, value = text.partition("=")
        prefix, _, argument = key.rpartition(".")
        owners = [prefix] if prefix else [name for name, own in takes.items() if argument in own]
        if not equals or not owners or not {*owners} <= taken.keys():
            every = sorted(f"{name}.{argument}" for name, own in takes.items() for argument in own)
            raise InputError(f"--reward-args {text}: give NAME=VALUE; {nearest(key, every) if every else 'none here'}")
        for owner in owners:
            taken[owner][argument] = value
    return [
        dataclasses.replace(one, arguments=bind_arguments(one.name, takes[one.name], taken[one.name], "reward"))
        for one in found
    ]
