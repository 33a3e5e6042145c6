"""The best step of a run by a number of an evaluation, and early stopping."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jaxllm.types import InputError, Numbers, nearest


@dataclasses.dataclass
class Best:
    """The best step by a metric such as `dev/f1`. Without a metric no step is the best, and none stops the run."""

    metric: str = ""
    mode: str = "max"
    patience: int = 0
    """Evaluations without a better one after which the run stops, 0 for never."""
    step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    _score: float = math.nan

    @property
    def stop(self) -> bool:
        """Whether patience has run out."""
        return bool(self.patience) and self.stale >= self.patience

    def add(self, step: int, numbers: Numbers) -> None:
        """Compares an evaluation with the best one. Raises InputError if it lacks the metric."""
        if not self.metric:
            return
        if self.metric not in numbers:
            raise InputError(f"--best {self.metric}: the evaluation gives {', '.join(numbers)}; choose one of these")
        x, sign = numbers[self.metric], 1 if self.mode == "max" else -1
        if math.isfinite(x) and (self.step is None or sign * x > sign * self._score):
            self.step, self.stale, self._score = step, 0, x
        else:
            self.stale += 1

    def recall(self, lines: Iterable[Mapping[str, Any]], kept: Collection[int]) -> None:
        """Adds the evaluations of metrics.jsonl. Only a step whose checkpoint is kept can be the best."""
        for line in lines:
            if self.metric in line:
                x = line[self.metric] if line["step"] in kept else None
                self.add(line["step"], {self.metric: math.nan if x is None else x})


def check_best(text: str | None, patience: int = 0, evals: Mapping[str, Iterable[str]] | None = None) -> None:
    """Raises InputError for a `--best` that is not of the form EVALUATION/NUMBER:max, and for patience without one.

    evals: the evaluations that there are, where they are known already, with the numbers that each gives, none where
    those are not known; another evaluation or number is an error too.
    """
    if patience and not text:
        raise InputError("--early-stopping needs --best, such as dev/f1:max, to know what is better")
    form = re.fullmatch(r"([^/:]+)/([^:]+):(max|min)", text or "")
    if text and (not form or (evals is not None and form[1] not in evals)):
        known = "" if evals is None else f"; evaluations: {', '.join(evals) or 'none here'}"
        raise InputError(f"--best {text}: give EVALUATION/NUMBER:max or :min{known}")
    if form and evals and (numbers := [*evals[form[1]]]) and form[2] not in numbers:
        raise InputError(f"--best {text}: {form[1]} gives no {form[2]}; {nearest(form[2], numbers)}")


def parse_best(text: str | None, evals: Mapping[str, Any], patience: int = 0) -> Best:
    """`"dev/f1:max"` as a Best. Raises InputError for anything else, and for an unknown evaluation.

    evals: evaluations by name. Of one with an attribute `numbers`, the names of what it gives, an unknown number is an
    error too; of others it is one at the first evaluation.
    """
    metric, _, mode = (text or "").partition(":")
    named = metric.partition("/")[0]
    check_best(text, patience, {name: getattr(x, "numbers", ()) if name == named else () for name, x in evals.items()})
    return Best(metric, mode, patience) if text else Best()
