"""Reading rows whose answers have scores, ranks or a human's judgement as pairs of a chosen and a rejected answer.

| shape  | columns                                                              | chosen                             |
|--------|----------------------------------------------------------------------|------------------------------------|
| scores | completions (a list), scores (a number for each)                     | the higher score                   |
| ranks  | completions (a list), rank or ranks (a number for each)              | the lower rank, 1 is best          |
| ranks  | answers (a list of {"answer": ..., "rank": ...})                     | the lower rank, 1 is best          |
| SHP    | history (the user's turn), human_ref_A, human_ref_B, labels          | A where labels is 1, B where 0     |
| lists  | chosen, rejected, of which one or both are lists of texts            | each of chosen over each rejected  |

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
    "completions and rank": ("completions", "rank"),
    "completions and ranks": ("completions", "ranks"),
    "answers with ranks": ("answers",),
    "human_ref_A, human_ref_B and labels after history": ("history", "human_ref_A", "human_ref_B", "labels"),
}


_BOTH = {"chosen", "rejected"}


def has_rivals(row: Mapping[str, Any]) -> str:
    """The shape of a row whose answers have scores, ranks or a judgement, or are lists; "" for other rows."""
    if "chosen" in row or "rejected" in row:
        lists = [name for name in ("chosen", "rejected") if _is_list(row.get(name))]
        return f"chosen and rejected, lists in {' and '.join(lists)}" if lists and len(row.keys() & _BOTH) == 2 else ""
    return next((name for name, columns in _SHAPES.items() if all(column in row for column in columns)), "")


def _is_list(value: Any) -> bool:
    """Whether it is several answers: a list of texts, or of lists of messages."""
    return isinstance(value, list | tuple) and bool(value) and not any(isinstance(x, Mapping) for x in value)


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
    if shape.startswith("chosen"):
        sides = [value if _is_list(value) else [value] for value in (row["chosen"], row["rejected"])]
        return [{"chosen": a, "rejected": b} for a, b in itertools.product(*sides)]
    if shape == "answers with ranks":
        answers, scores = _ranked(row, where)
    else:
        answers, scores = _scored(row, where, shape.rpartition(" ")[2])
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    two = itertools.combinations(order, 2) if every else [(order[0], order[-1])] if order else []
    found = [{"chosen": answers[a], "rejected": answers[b]} for a, b in two if scores[a] > scores[b]]
    if not found:
        raise BadRow(f"{where}: no two of its answers have different scores; remove the row", "no two scores differ")
    return found


def _scored(row: Mapping[str, Any], where: str, column: str) -> tuple[Sequence[Any], list[float]]:
    answers, given = row["completions"], row[column]
    if not isinstance(answers, list | tuple) or not isinstance(given, list | tuple) or len(answers) != len(given):
        raise InputError(f"{where}: its completions and {column} are not two lists of one length; mend the row")
    sign = 1 if column == "scores" else -1
    return answers, [sign * _number(x, where, column.removesuffix("s")) for x in given]


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
