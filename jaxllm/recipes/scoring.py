"""Scoring completions by reward functions, on the host: a time limit, and what raised or gave no number is counted."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data.sources import Row
from jaxllm.distributed import messages
from jaxllm.losses.user_code import cause
from jaxllm.recipes.rewards import Reward
from jaxllm.run.time_limit import TooLong, time_limit
from jaxllm.types import InputError, UserCodeError


@dataclasses.dataclass
class Scorer:
    """Calls reward functions on completions.

    A call that raises, takes longer than `seconds` (as many times for lists), or gives no finite number leaves its
    completion without that reward; such failures are counted by function and kind in `failures`, whose first message
    is in `first`. The time limit holds in the main thread, where a signal can interrupt the function. Of several
    processes each scores its share.
    """

    rewards: Sequence[Reward]
    seconds: float = 10.0
    failures: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    first: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the functions."""
        return [one.name for one in self.rewards]

    @property
    def weights(self) -> list[float]:
        """Their weights."""
        return [one.weight for one in self.rewards]

    def total(self, rewards: np.ndarray) -> np.ndarray:
        """The weighted sum over functions of rewards [functions, ...]: a missing one counts 0, NaN where all are."""
        total = np.tensordot(np.array(self.weights), np.nan_to_num(rewards), 1)
        return np.where(np.isnan(rewards).all(axis=0), np.nan, total)

    def check(self, prompt: str, row: Row) -> None:
        """Tries each function on an empty completion of this prompt, which a model may well give.

        Raises InputError for a column that the row lacks, a wrong result, and a function that takes too long;
        UserCodeError for one that raises.
        """
        for one in self.rewards:
            try:
                values = self._values(one, [prompt], [""], [row])
            except (InputError, TooLong) as error:
                raise InputError(f"--reward {one.name}: {error}") from None
            except KeyError as error:
                if error.args and error.args[0] not in row:
                    raise InputError(
                        f"--reward {one.name} reads the column {error.args[0]!r}, and the rows have {', '.join(row)}: "
                        f"name another by --reward-args {one.name}.column=NAME"
                    ) from None
                raise UserCodeError(f"--reward {one.name} fails: {cause(error)}") from error
            except Exception as error:
                raise UserCodeError(
                    f"--reward {one.name} fails on the first prompt with an empty completion: {cause(error)}; return "
                    "None for what cannot be scored"
                ) from error
            if values[0] is not None and math.isinf(values[0]):
                raise InputError(f"--reward {one.name} is infinite: return a finite number, or None for no reward")

    def score(self, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
        """[functions, n] float64, NaN where a reward is missing. All processes call this.

        Raises InputError where a function failed on all of more than one completion.
        """
        mine = range(messages.index(), len(prompts), messages.count())
        said, answered, read = [prompts[i] for i in mine], [completions[i] for i in mine], [rows[i] for i in mine]
        found = [None if one.together else self._score(one, said, answered, read) for one in self.rewards]
        rewards = np.full((len(self.rewards), len(prompts)), np.nan)
        for index, text in enumerate(messages.exchange(json.dumps(found))):  # None for NaN
            for f, values in enumerate(json.loads(text)):
                if values is not None:
                    rewards[f, index :: messages.count()] = _floats(values)
        for f, one in enumerate(self.rewards):
            if one.together:
                rewards[f] = _floats(self._score(one, prompts, completions, rows))
        return rewards

    def _score(
        self, one: Reward, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]
    ) -> list[float | None]:
        """The rewards of one function; None where one is missing."""
        size = len(prompts) if one.takes_lists else 1
        found: list[float | None] = []
        failed = 0
        for i in range(0, len(prompts), max(size, 1)):
            part = slice(i, i + size)
            try:
                values = self._values(one, prompts[part], completions[part], rows[part])
            except (Exception, TooLong) as error:
                kind, values = type(error).__name__, [None] * len(prompts[part])
                self._fail(one, kind, f"{cause(error)}, for the completion {completions[i]!r:.80}", len(values))
                failed += len(values)
            for j, x in enumerate(values):
                if x is not None and math.isinf(x):
                    self._fail(one, "infinite", f"an infinite reward for {completions[i + j]!r:.80}", 1)
                    values[j], failed = None, failed + 1
            found += values
        if failed == len(prompts) > 1:
            message = next(text for (name, _), text in self.first.items() if name == one.name)
            raise InputError(f"--reward {one.name} failed on each of {failed} completions: {message}")
        return found

    def _fail(self, one: Reward, kind: str, message: str, count: int) -> None:
        self.failures[one.name, kind] += count
        self.first.setdefault((one.name, kind), message)

    def _values(
        self, one: Reward, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]
    ) -> list[float | None]:
        limit = 0.0 if one.together else self.seconds * len(prompts)
        with time_limit(limit, f"it took longer than {limit:g} s (--reward-timeout)"):
            found = one(prompts, completions, rows)
        values = _listed(found) if one.takes_lists else [found]
        if len(values) != len(prompts):
            raise InputError(f"it returned {len(values)} rewards for {len(prompts)} completions: return one for each")
        return [_number(x) for x in values]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if x is None else x for x in values]


def _listed(found: Any) -> list[Any]:
    if np.ndim(found) != 1:
        raise InputError(f"it returned a {type(found).__name__}; a list of numbers is wanted")
    return list(found)


def _number(x: Any) -> float | None:
    """A reward as a float; None where it is missing. Raises InputError for what is no number."""
    if x is None:
        return None
    if np.ndim(x) or not isinstance(x, numbers.Real | np.number | np.bool_):
        raise InputError(f"it returned a {type(x).__name__}; a number is wanted, or None for a reward that is missing")
    return None if math.isnan(x) else float(x)
