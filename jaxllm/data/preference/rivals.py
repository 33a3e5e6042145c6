"""Reading rows whose answers have scores, ranks or a human's judgement as pairs of a chosen and a rejected answer.

| shape  | columns                                                              | chosen                             |
|--------|----------------------------------------------------------------------|------------------------------------|
| scores | completions (a list), scores (a number for each)                     | the higher score                   |
| ranks  | answers (a list of {"answer": ..., "rank": ...})                     | the lower rank, 1 is best          |
| SHP    | history (the user's turn), human_ref_A, human_ref_B, labels          | A where labels is 1, B where 0     |

The best answer is compared with the worst, or every two; answers with equal scores are not compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.report import BadRow
from jaxllm.types import InputError

_SHAPES = {
    "completions and scores": ("completions", "scores"),
    "answers with ranks": ("answers",),
    "human_ref_A, human_ref_B and labels after history": ("history", "human_ref_A", "human_ref_B", "labels"),
}


def has_rivals(row: Mapping[str, Any]) -> str:
    """The shape of a row whose answers have scores, ranks or a judgement; "" for other rows."""
    if "chosen" in row or "rejected" in row:
        return ""
    return next((name for name, columns in _SHAPES.items() if all(column in row for column in columns)), "")


def compared(row: Mapping[str, Any], where: str, every: bool) -> list[dict[str, Any]]:
    """The pairs in such a row, as columns chosen and rejected (and question, of SHP); none in another row.

    every: all pairs of different scores, best first; otherwise the best and the worst. Raises BadRow where no two
    differ, and InputError for columns of other types, both beginning with `where`.
    """
    shape = has_rivals(row)
    if not shape:
        return []
    if shape.startswith("human"):
        if row["labels"] not in (0, 1, "0", "1"):
            raise InputError(f"{where}: its labels are {row['labels']!r}, wanted 1 (A is preferred) or 0; mend the row")
        a, b = row["human_ref_A"], row["human_ref_B"]
        chosen, rejected = (a, b) if int(row["labels"]) else (b, a)
        return [{"question": row["history"], "chosen": chosen, "rejected": rejected}]
    answers, scores = _ranked(row, where) if shape == "answers with ranks" else _scored(row, where)
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    two = itertools.combinations(order, 2) if every else [(order[0], order[-1])] if order else []
    found = [{"chosen": answers[a], "rejected": answers[b]} for a, b in two if scores[a] > scores[b]]
    if not found:
        raise BadRow(f"{where}: no two of its answers have different scores; remove the row", "no two scores differ")
    return found


def _scored(row: Mapping[str, Any], where: str) -> tuple[Sequence[Any], list[float]]:
    answers, scores = row["completions"], row["scores"]
    if not isinstance(answers, list | tuple) or not isinstance(scores, list | tuple) or len(answers) != len(scores):
        raise InputError(f"{where}: its completions and scores are not two lists of one length; mend the row")
    return answers, [_number(score, where, "score") for score in scores]


def _ranked(row: Mapping[str, Any], where: str) -> tuple[Sequence[Any], list[float]]:
    given = row["answers"]
    if not isinstance(given, list | tuple) or not all(
        isinstance(x, Mapping) and {"answer", "rank"} <= x.keys() for x in given
    ):
        raise InputError(f"{where}: its answers are not a list of answer and rank; mend the row")
    return [x["answer"] for x in given], [-_number(x["rank"], where, "rank") for x in given]


def _number(given: Any, where: str, name: str) -> float:
    if given is None:
        raise BadRow(f"{where}: a {name} is absent; mend the row", f"{name} is absent")
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"{where}: a {name} is {given!r}, wanted a number; mend the row")
    if math.isnan(given):
        raise BadRow(f"{where}: a {name} is not a number; mend the row", f"{name} is not a number")
    return float(given)
