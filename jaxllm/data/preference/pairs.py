"""Converting rows that compare or judge answers to prompts with answers, as tokens of a maximum length.

| shape            | columns                                                                                  |
|------------------|------------------------------------------------------------------------------------------|
| standard         | prompt, chosen, rejected: plain text                                                     |
| conversational   | the same as messages; chosen and rejected may repeat the prompt                          |
| implicit prompt  | chosen, rejected: their common beginning is the prompt                                   |
| instructions     | chosen, rejected, and instruction (maybe input), question or query: the user's words     |
| unpaired         | prompt (or as above), completion, label: true for a desirable completion                 |

Any of them may have `weight` (above 0, a factor of the row's loss) and `margin` (by how much the chosen answer is
better).
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data.chat.encode import Encoded, common_length, encode_completion, encode_messages, turn_end
from jaxllm.data.chat.rows import PROMPT_COLUMNS, Message, messages_of, prompt_of
from jaxllm.data.preference.answers import Answer, Group
from jaxllm.data.report import Report, convert_each
from jaxllm.types import InputError

CUTS = ("answer", "prompt")
"""Where a row over the length is cut: at the end of its answers, or first at the beginning of its prompt."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A prompt and its answers, all text or all messages; sides: +1 chosen or desirable, -1 rejected or undesirable."""

    prompt: str | list[Message]
    answers: tuple[str | list[Message], ...]
    sides: tuple[int, ...]
    weight: float
    margin: float


def comparisons(rows: Any) -> tuple[list[Comparison], list[str], Report]:
    """The comparisons in `sources.Rows`, the location of each, and a report of rows left out for want of a choice.

    Raises InputError that names the rows with missing columns, wrong types or roles out of order, and for a data set
    that is paired only in part.
    """
    report, kept, locations = Report(), [], []
    for i, row in enumerate(rows):
        if reason := _fault(row):
            report.drop(reason, rows.where(i))
        else:
            kept.append(row)
            locations.append(rows.where(i))
    found = convert_each(kept, comparison, locations.__getitem__)
    if len({len(one.answers) for one in found}) > 1:
        odd = next(i for i, one in enumerate(found) if len(one.answers) != len(found[0].answers))
        raise InputError(
            f"{locations[odd]}: some rows have chosen and rejected, others completion and label; split them"
        )
    if not found:
        raise InputError("no row with answers to compare is left: " + ("; ".join(report.lines()) or "there are none"))
    report.kept = len(found)
    return found, locations, report


def _fault(row: Mapping[str, Any]) -> str:
    """Why there is nothing to choose in a row; "" if there is something."""
    for column in ("chosen", "rejected", "completion"):
        if column in row and _is_empty(row[column]):
            return f"{column} is empty"
    same = "chosen" in row and "rejected" in row and row["chosen"] == row["rejected"]
    return "chosen equals rejected" if same else ""


def _is_empty(answer: Any) -> bool:
    if isinstance(answer, list | tuple) and answer and isinstance(answer[-1], Mapping):
        last = answer[-1]
        return not last.get("tool_calls") and _is_empty(last.get("content", last.get("value")))
    return (answer.strip() if isinstance(answer, str) else answer) in ("", [], ())


def comparison(row: Mapping[str, Any], where: str) -> Comparison:
    """Converts a row. Raises InputError, beginning with `where`."""
    columns = ("chosen", "rejected") if "chosen" in row or "rejected" in row else ("completion", "label")
    if missing := [name for name in columns if name not in row]:
        raise InputError(
            f"{where}: it has no {' and no '.join(missing)}, its columns are {', '.join(row) or 'none'}; wanted "
            "chosen and rejected, or completion and label"
        )
    weight, margin = _number(row, "weight", 1.0, where), _number(row, "margin", 0.0, where)
    if weight <= 0:
        raise InputError(f"{where}: its weight is {weight:g}, wanted above 0; remove the row to leave it out")
    if columns[1] == "label":
        if row["label"] not in (0, 1):
            raise InputError(f"{where}: its label is {row['label']!r}, wanted true or false; mend the row")
        sides: dict[str, int] = {"completion": 1 if row["label"] else -1}
    else:
        sides = {"chosen": 1, "rejected": -1}
    prompt, answers = _parted(row, [_answer(row, column, where) for column in sides], where)
    return Comparison(prompt, tuple(answers), tuple(sides.values()), weight, margin)


def _number(row: Mapping[str, Any], column: str, default: float, where: str) -> float:
    given = row.get(column)
    if given is None:
        return default
    if not isinstance(given, numbers.Real) or isinstance(given, bool) or not math.isfinite(given):
        raise InputError(f"{where}: its {column} is {given!r}, wanted a finite number; mend the row")
    return float(given)


def _answer(row: Mapping[str, Any], column: str, where: str) -> Any:
    if isinstance(row[column], str):
        return row[column]
    if isinstance(row[column], list | tuple):
        return messages_of(row, column, where)
    raise InputError(f"{where}: its {column} is {row[column]!r}, wanted text or messages; mend the row")


def _parted(row: Mapping[str, Any], answers: list[Any], where: str) -> tuple[Any, list[Any]]:
    """The prompt and the answers after it, all text or all messages."""
    if len({type(answer) for answer in answers}) > 1:
        raise InputError(f"{where}: chosen is text and rejected messages, or the other way; make them alike")
    talk = isinstance(answers[0], list)
    if talk and answers[0][0]["role"] in ("system", "user"):  # answers that repeat the prompt
        n = common_length(*answers) if len(answers) > 1 else len(answers[0]) - 1
        n = min(n, *(len(answer) - 1 for answer in answers))
        if n:
            return answers[0][:n], [answer[n:] for answer in answers]
        raise InputError(f"{where}: chosen and rejected have no message in common to be the prompt; mend the row")
    if not any(column in row for column in PROMPT_COLUMNS):
        if talk or len(answers) == 1:
            raise InputError(f"{where}: it has no prompt, and its answers do not begin with one; mend the row")
        n = common_length(*answers)
        while n and not answers[0][n - 1].isspace():
            n -= 1  # to the beginning of a word, and of the space that tokenizers count to it
        n -= answers[0][n - 1 : n] == " "
        if not n:
            raise InputError(f"{where}: chosen and rejected have no beginning in common to be the prompt; mend the row")
        if any(not answer[n:].strip() for answer in answers):
            raise InputError(f"{where}: one of chosen and rejected begins the other, so one is empty; mend the row")
        return answers[0][:n], [answer[n:] for answer in answers]
    prompt = prompt_of(row, where)
    if talk and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    elif not talk and isinstance(prompt, list):
        answers = [[{"role": "assistant", "content": answer}] for answer in answers]
    return prompt, answers


def encode(
    found: Sequence[Comparison],
    tokenizer: Any,
    max_length: int,
    *,
    where: Callable[[int], str],
    report: Report,
    cut: str = "answer",
) -> list[Group]:
    """Comparisons as tokens, at most `max_length` of them for a prompt and an answer together, end token included.

    The prompt is the common beginning of the answers' tokens, up to the first that is trained on. cut: one of CUTS. The
    report counts cuts, and names rows that are left out: where the prompt leaves no token of an answer, and where
    nothing that differs is left. Raises InputError that names the rows the chat template refuses.
    """
    encoded = convert_each(found, lambda one, location: _encoded(one, tokenizer, location), where)
    pairs = zip(found, encoded, strict=True)
    return report.select((_group(one, answers, max_length, cut) for one, answers in pairs), where)


def _encoded(one: Comparison, tokenizer: Any, where: str) -> list[Encoded]:
    """Each answer after the prompt, trained on in the answer alone."""
    if isinstance(one.prompt, str):
        return [encode_completion(one.prompt, str(answer), tokenizer, where=where) for answer in one.answers]
    before = sum(message["role"] == "assistant" for message in one.prompt)
    found = [encode_messages([*one.prompt, *answer], tokenizer, where=where) for answer in one.answers]
    for tokens, trained in found if before else ():
        ends = np.flatnonzero(trained & (tokens == turn_end(tokenizer)))
        trained[: ends[before - 1] + 1] = False
    return found


def _group(one: Comparison, encoded: Sequence[Encoded], max_length: int, cut: str) -> tuple[Group, list[str]] | str:
    """A comparison's tokens and what was cut from them, or why it is left out."""
    first = min(int(np.argmax(trained)) for _, trained in encoded)
    for tokens, _ in encoded[1:]:
        first = min(first, common_length(encoded[0].tokens.tolist(), tokens.tolist()))
    if not first:
        return "there is no prompt, and the tokenizer has no begin token"
    prompt, kinds = encoded[0].tokens[:first], []
    over = max(len(tokens) for tokens, _ in encoded) - max_length
    if over > 0 and cut == "prompt" and first > 1:
        prompt = prompt[min(over, first - 1) :]
        kinds.append("prompts")
    answers = []
    for (tokens, trained), side in zip(encoded, one.sides, strict=True):
        room = max(0, max_length - len(prompt))
        answers.append(Answer(tokens[first : first + room], trained[first : first + room], side))
        if len(tokens) - first > room:
            kinds.append("chosen answers" if side > 0 else "rejected answers")
    if not all(answer.trained.any() for answer in answers):
        return f"the prompt fills --max-length {max_length}"
    if len(answers) > 1 and np.array_equal(answers[0].tokens, answers[1].tokens):
        return f"chosen equals rejected in the first {max_length} tokens"
    return Group(prompt, tuple(answers), one.weight, one.margin), kinds
