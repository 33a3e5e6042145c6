"""Checks of the numbers that flags give, with the words that say what is wanted."""

from __future__ import annotations

import math
from typing import Any

from jaxllm.losses.arguments import Rule
from jaxllm.types import InputError

COUNT = Rule("at least 1 is needed", lambda x: x >= 1)
NOT_NEGATIVE = Rule("give 0 or more", lambda x: x >= 0)
FINITE = Rule("give a finite number, 0 or more", lambda x: 0 <= x < math.inf)
POSITIVE = Rule("give a finite number above 0", lambda x: 0 < x < math.inf)
BELOW_1 = Rule("give a number from 0 to below 1", lambda x: 0 <= x < 1)


def check_numbers(config: Any, rule: Rule, *names: str) -> None:
    """Raises InputError, naming the flag, where one of these fields is there, is not None, and breaks the rule."""
    for name in names:
        if (x := getattr(config, name, None)) is not None and not rule.holds(x):
            raise InputError(f"--{name.replace('_', '-')} {x}: {rule.text}")
