"""Converting rows that compare or judge answers to prompts with answers, as tokens of a maximum length.

| shape            | columns                                                                                  |
|------------------|------------------------------------------------------------------------------------------|
| standard         | prompt, chosen, rejected: plain text                                                     |
| conversational   | the same as messages; chosen and rejected may repeat the prompt                          |
| implicit prompt  | chosen, rejected: their common beginning is the prompt                                   |
| instructions     | chosen, rejected, and instruction (maybe input), question or query: the user's words     |
| unpaired         | prompt (or as above), completion, label: true for a desirable completion                 |

Rows with several rivals (scores, ranks, human judgements) are read by data/preference/rivals.py. Any row may have
`weight` (above 0, a factor of the row's loss) and `margin` (by how much the chosen answer is better), as numbers or as
text, and with messages `system`, `history` and what data/chat/rows.py passes to the chat template.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data.chat.columns import ColumnsRead, TrackedRow, shown_columns
from jaxllm.data.chat.encode import Encoded, encoding_completion, encoding_messages, ignored_options
from jaxllm.data.chat.messages import Message, check_prompt, empty, messages_of, repeats, text_of
from jaxllm.data.chat.render import common_length, turn_end
from jaxllm.data.chat.rows import PROMPT_COLUMNS, Dialogue, options_of, prompt_of, with_system
from jaxllm.data.chat.together import Steps, gather, together
from jaxllm.data.labelled.columns import number
from jaxllm.data.preference.answers import Answer, Group
from jaxllm.data.preference.rivals import compared, has_rivals
from jaxllm.data.preference.transcripts import split_transcripts
from jaxllm.data.report import MAX_BAD_ROWS, BadRow, Report, convert_each
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
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the chat template, such as tools."""


_LABELS = {"1": 1, "true": 1, "good": 1, "desirable": 1, "0": -1, "false": -1, "bad": -1, "undesirable": -1}
"""The side of an answer by its label as text."""


def comparisons(
    rows: Any, *, columns: Mapping[str, str] | None = None, every: bool = False, max_bad_rows: float = MAX_BAD_ROWS
) -> tuple[list[Comparison], list[str], Report]:
    """The comparisons in `sources.Rows`, the location of each, and a report of rows left out and columns not read.

    columns: the column that stands for a name, as `--columns` gives it. every: of answers with scores or ranks, every
    two that differ are compared, and not only the best with the worst. max_bad_rows: the share of rows that may be bad
    in their content. Raises InputError as `convert_each` does, and for a data set that is paired only in part.
    """
    report, reader = Report(max_bad_rows=max_bad_rows), ColumnsRead(columns or {})

    def convert(row: Mapping[str, Any], where: str) -> list[Comparison]:
        opened = reader.open(row, where)
        pairs: list[dict[str, Any]] = compared(opened, where, every) or [{}]
        parts = [TrackedRow({**opened, **pair}, opened.named) for pair in pairs]
        found = [comparison(part, where) for part in parts]
        for part in parts:
            opened.read |= part.read
        reader.close(opened, _shape(opened))
        return found

    lists, places = convert_each(rows, convert, rows.where, report)
    reader.tell(report)
    found, locations = [], []
    for some, place in zip(lists, places, strict=True):
        found += some
        report.repeated += any(repeats(one.prompt, one.answers) for one in some)
        locations += [place] if len(some) == 1 else [f"{place}, pair {i}" for i in range(1, len(some) + 1)]
    if len({len(one.answers) for one in found}) > 1:
        odd = next(i for i, one in enumerate(found) if len(one.answers) != len(found[0].answers))
        raise InputError(
            f"{locations[odd]}: some rows have chosen and rejected, others completion and label; split them"
        )
    report.kept = len(found)
    return found, locations, report


def is_compared(row: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    """Whether a row compares or judges answers. names: the column that stands for a name."""
    opened = ColumnsRead(names).open(row, "the first row")
    return (
        "chosen" in opened
        or "rejected" in opened
        or {"completion", "label"} <= opened.keys()
        or bool(has_rivals(opened))
    )


def _shape(row: Mapping[str, Any]) -> str:
    prompt = next((name for name in PROMPT_COLUMNS if name in row), "their common beginning")
    if rivals := has_rivals(row):
        return rivals
    answers = "chosen and rejected" if "chosen" in row else "completion and label"
    return f"{answers} after {prompt}"


def comparison(row: Mapping[str, Any], where: str) -> Comparison:
    """Converts a row of one pair or one judged answer. Raises BadRow and InputError, beginning with `where`."""
    columns = ("chosen", "rejected") if "chosen" in row or "rejected" in row else ("completion", "label")
    if missing := [name for name in columns if name not in row]:
        raise InputError(
            f"{where}: it has no {' and no '.join(missing)}, {shown_columns(row)}; wanted chosen and rejected, or "
            "completion and label; or name them, as in --columns prompt=question,chosen=answer_a,rejected=answer_b"
        )
    weight, margin = _number(row, "weight", 1.0, where), _number(row, "margin", 0.0, where)
    if weight <= 0:
        raise BadRow(
            f"{where}: its weight is {weight:g}, wanted above 0; remove the row to leave it out", "weight not above 0"
        )
    sides = {"completion": _side(row["label"], where)} if columns[1] == "label" else {"chosen": 1, "rejected": -1}
    answers = [_answer(row, column, where) for column in sides]
    if len(answers) > 1 and answers[0] == answers[1]:
        raise BadRow(f"{where}: chosen equals rejected; remove the row", "chosen equals rejected")
    prompt, answers = _parted(row, answers, where)
    options = options_of(row, where) if isinstance(prompt, list) else {}
    return Comparison(prompt, tuple(answers), tuple(sides.values()), weight, margin, options)


def _side(label: Any, where: str) -> int:
    """The side of a judged answer: 1 of a true label, -1 of a false one."""
    if label is None:
        raise BadRow(f"{where}: its label is absent; mend the row", "label is absent")
    text = label.strip().lower() if isinstance(label, str) else ""
    if text in _LABELS:
        return _LABELS[text]
    if isinstance(label, str) or label not in (0, 1):
        raise InputError(f"{where}: its label is {label!r}, wanted true or false; mend the row")
    return 1 if label else -1


def _number(row: Mapping[str, Any], column: str, default: float, where: str) -> float:
    given = row.get(column)
    if given is None or given == "":
        return default
    if (found := number(given)) is None:
        raise InputError(f"{where}: its {column} is {given!r}, wanted a finite number; mend the row")
    return found


def _answer(row: Mapping[str, Any], column: str, where: str) -> Any:
    given = row[column]
    if given is None or isinstance(given, str):
        return text_of(row, column, where)
    if isinstance(given, Mapping):  # a lone message
        given = [given]
    if isinstance(given, list | tuple):
        if given and isinstance(given[-1], Mapping) and _says_nothing(given[-1]):
            raise empty(column, where)
        return messages_of({column: given}, column, where)
    raise InputError(f"{where}: its {column} is {given!r}, wanted text or messages; mend the row")


def _says_nothing(message: Mapping[str, Any]) -> bool:
    content = message.get("value") if message.get("content") is None else message["content"]
    return not message.get("tool_calls") and (content is None or content == [] or str(content).strip() == "")


def _parted(row: Mapping[str, Any], answers: list[Any], where: str) -> tuple[Any, list[Any]]:
    """The prompt and the answers after it, all text or all messages."""
    if len({type(answer) for answer in answers}) > 1:
        raise InputError(f"{where}: chosen is text and rejected messages, or the other way; make them alike")
    talk = isinstance(answers[0], list)
    if talk and answers[0][0]["role"] in ("system", "user"):  # answers that repeat the prompt
        n = common_length(*answers) if len(answers) > 1 else len(answers[0]) - 1
        n = min(n, *(len(answer) - 1 for answer in answers))
        if n:
            shared = with_system(row, answers[0][:n], where)
            check_prompt(row, shared, "chosen" if "chosen" in row else "completion", where)
            return shared, [answer[n:] for answer in answers]
        raise BadRow(
            f"{where}: chosen and rejected have no message in common to be the prompt; mend the row",
            "chosen and rejected have no prompt in common",
        )
    if not any(column in row for column in PROMPT_COLUMNS):
        if talk or len(answers) == 1:
            raise InputError(
                f"{where}: it has no prompt, and its answers do not begin with one; mend the row, or name the prompt, "
                "as in --columns prompt=question"
            )
        return split_transcripts(answers, where)
    prompt = prompt_of(row, where)
    if talk and isinstance(prompt, str):
        prompt = with_system(row, [{"role": "user", "content": prompt}], where)
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
    report counts cuts, and names rows that are left out: those that the chat template refuses, where the prompt leaves
    no token of an answer, and where nothing that differs is left. Raises InputError where the refused are too many, and
    where no row is left.
    """
    if any(isinstance(one.prompt, list) for one in found):
        turn_end(tokenizer)  # a template at fault is not the fault of a row

    def convert(one: Comparison, location: str) -> Steps[tuple[Comparison, list[Encoded]]]:
        encoded = yield from _encoding(one, tokenizer, location)
        if one.options:
            whole = Dialogue([*one.prompt, *one.answers[0]], options=one.options)
            report.ignored.update(ignored_options(whole, tokenizer))
        return one, encoded

    steps = (convert(one, where(i)) for i, one in enumerate(found))
    pairs, locations = convert_each(together(steps, tokenizer), lambda result, _: result(), where, report)
    return report.select((_group(one, encoded, max_length, cut) for one, encoded in pairs), locations.__getitem__)


def _encoding(one: Comparison, tokenizer: Any, where: str) -> Steps[list[Encoded]]:
    """Each answer after the prompt, trained on in the answer alone, in steps."""
    if isinstance(one.prompt, str):
        texts = [encoding_completion(one.prompt, str(answer), tokenizer, where=where) for answer in one.answers]
        return (yield from gather(texts))
    before = sum(message["role"] == "assistant" for message in one.prompt)
    found = yield from gather([
        encoding_messages([*one.prompt, *answer], tokenizer, where=where, skip=before, options=one.options)
        for answer in one.answers
    ])  # fmt: skip
    if any(not trained.any() for _, trained in found):
        raise BadRow(f"{where}: an answer has no token to learn; mend the row", "no token to learn")
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
