"""Which step of a run is the best one, and for how long there was none better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jaxllm.types import InputError, Numbers


@dataclasses.dataclass
class Best:
    """The best step by one number of one evaluation, such as `dev/f1`; without a metric there is none."""

    metric: str = ""
    mode: str = "max"
    step: int | None = None
    stale: int = 0
    """Evaluations since then that were not better."""
    _score: float = math.nan

    def add(self, step: int, numbers: Numbers) -> None:
        """Takes an evaluation into account. Raises InputError if it did not give the number."""
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
        """Takes the evaluations of metrics.jsonl into account; only a step whose checkpoint is kept can be the best."""
        for line in lines:
            if self.metric in line:
                x = line[self.metric] if line["step"] in kept else None
                self.add(line["step"], {self.metric: math.nan if x is None else x})


def parse_best(text: str | None, evals: Iterable[str]) -> Best:
    """`"dev/f1:max"` as a Best with nothing seen. Raises InputError for anything else, or an unknown evaluation."""
    if not text:
        return Best()
    metric, _, mode = text.partition(":")
    evaluation, _, number = metric.partition("/")
    if mode not in ("max", "min") or not number or evaluation not in evals:
        known = ", ".join(evals) or "none here"
        raise InputError(f"--best {text}: give EVALUATION/NUMBER:max or :min; evaluations: {known}")
    return Best(metric, mode)
