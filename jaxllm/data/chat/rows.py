"""Converting instruction rows of any common shape to one type, Dialogue. The columns of a row tell its shape.

| shape      | columns                                | meaning                                                   |
|------------|----------------------------------------|-----------------------------------------------------------|
| chat       | messages                               | role and content of each message                          |
| ShareGPT   | conversations, or conversation         | from and value of each message                            |
| LIMA       | conversations: a list of texts         | the user's turns and the assistant's by turns             |
| completion | prompt, completion                     | plain text, or messages of which the completion is learnt |
| question   | question, answer or response           | a user's turn and the assistant's                         |
| query      | query, answer or response              | the same                                                  |
| Alpaca     | instruction, output or response        | the same; input or context stands below the instruction   |
| text       | text                                   | all of it is learnt                                       |

Where several shapes fit, the first of them is taken. Beside messages and turns, these columns are read where a row has
them: `system` (or `system_prompt`), the system's message; `history`, turns before the question, as pairs of texts or as
messages; `tools`, `documents` and `chat_template_kwargs`, passed to the chat template, as values or as JSON text. A
`prompt` beside a conversation has to be its beginning.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxllm.data.chat.columns import ColumnsRead, TrackedRow, shown_columns
from jaxllm.data.chat.messages import Message, check_prompt, kind_of, messages_of, mistyped, repeats, text_of
from jaxllm.data.report import BadRow, Report, check_text, convert_each
from jaxllm.types import InputError

PROMPT_COLUMNS = ("prompt", "question", "query", "instruction", "input", "conversations")
"""Columns that hold the prompt of a row whose answers are in other columns, in the order of preference."""

OPTIONS = ("tools", "documents", "chat_template_kwargs")
"""Columns that are passed to the chat template."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A row to learn from: messages or, where there are none, a prompt and its completion as plain text."""

    messages: Sequence[Message] = ()
    prompt: str = ""
    completion: str = ""
    last_only: bool = False
    """Only the last of the assistant's turns is learnt."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the chat template, such as tools."""


def dialogue(row: Mapping[str, Any], where: str, columns: ColumnsRead | None = None) -> Dialogue:
    """Converts a row. Raises BadRow for empty and null columns, InputError for missing or mistyped ones.

    Messages begin with `where`. columns: renames columns first, and notes those that are read.
    """
    columns = columns or ColumnsRead()
    opened = columns.open(row, where)
    wanted, build = _shape(opened, where, columns.names)
    found = build(opened, where, *wanted)
    columns.close(opened, " and ".join(wanted))
    return found


def _shape(row: Mapping[str, Any], where: str, named: Iterable[str]) -> tuple[tuple[str, ...], Callable[..., Dialogue]]:
    """The columns of the shape of a row and the function that converts it: the shape with most of the named columns."""
    fitting = [shape for shape in _SHAPES if all(column in row for column in shape[0])]
    if fitting:
        return max(fitting, key=lambda shape: len({*shape[0]} & {*named}))  # the first of equal ones
    known = "; ".join(" and ".join(columns) for columns, _ in _SHAPES)
    raise InputError(
        f"{where}: {shown_columns(row)}; wanted one of: {known}; or name them, as in "
        "--columns prompt=question,completion=text"
    )


def dialogues(
    rows: Any,
    *,
    where: Callable[[int], str] | None = None,
    report: Report,
    columns: Mapping[str, str] | None = None,
) -> tuple[list[Dialogue], list[str]]:
    """Converts `sources.Rows`: the dialogues, and the location of each.

    where: the location of a row, by default `rows.where`. columns: the column that stands for a name, as `--columns`
    gives it. The report names rows that are left out and columns that are not read. Raises InputError as `convert_each`
    does.
    """
    reader = ColumnsRead(columns or {})
    found, locations = convert_each(rows, lambda row, at: dialogue(row, at, reader), where or rows.where, report)
    reader.tell(report)
    report.repeated += sum(repeats(one.prompt, [one.completion]) for one in found)
    return found, locations


def prompt_of(row: Mapping[str, Any], where: str) -> str | list[Message]:
    """The prompt of a row, text or messages, for rows whose answers are in other columns (chosen and rejected).

    Raises InputError for a row without a prompt, or with an empty one.
    """
    column = next((name for name in PROMPT_COLUMNS if name in row), None)
    if column is None:
        raise InputError(
            f"{where}: it has no prompt, question, query or instruction; {shown_columns(row)}; or name it, as in "
            "--columns prompt=question"
        )
    if column == "conversations":
        return with_system(row, _talk(row, column, where), where)
    if column != "prompt":
        return [*_before(row, where), _asked(row, column, where)]
    if isinstance(row[column], list | tuple):
        return with_system(row, messages_of(row, column, where), where)
    return text_of(row, column, where)


def options_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of the chat template that a row has: tools, documents, and those in chat_template_kwargs."""
    found: dict[str, Any] = {}
    for column in OPTIONS:
        given = row.get(column)
        if isinstance(given, str):
            check_text(given, where, column)
            try:
                given = json.loads(given) if given.strip() else None
            except ValueError:
                raise BadRow(
                    f"{where}: its {column} is text and not JSON; mend the row", f"{column} not JSON"
                ) from None
        if not given:
            continue
        wanted: Any = Mapping if column == "chat_template_kwargs" else (list, tuple)
        if not isinstance(given, wanted):
            raise mistyped(column, given, "an object" if wanted is Mapping else "a list", where)
        check_text(given, where, column)
        found |= {column: given} if wanted is not Mapping else given
    return found


def with_system(row: Mapping[str, Any], messages: list[Message], where: str) -> list[Message]:
    """The messages after that of the row's `system` column, unless they begin with a system's message themselves."""
    if messages and messages[0]["role"] == "system":
        return messages
    column = next((name for name in ("system", "system_prompt") if name in row), None)
    text = column and row.get(column)
    if not column or text is None:
        return messages
    text = text_of({column: text}, column, where, may_be_empty=True)
    return [{"role": "system", "content": text}, *messages] if text.strip() else messages


def _talk(row: Mapping[str, Any], column: str, where: str) -> list[Message]:
    """Messages, or texts that are the user's and the assistant's by turns."""
    given = super(TrackedRow, row).__getitem__(column) if isinstance(row, TrackedRow) else row[column]
    texts = isinstance(given, list | tuple) and given and all(isinstance(x, str) for x in given)
    if column == "messages" or not texts:
        return messages_of(row, column, where)
    return [
        {"role": ("user", "assistant")[i % 2], "content": text_of({column: x}, column, f"{where}, turn {i + 1}")}
        for i, x in enumerate(row[column])
    ]


def _messages(row: Mapping[str, Any], where: str, column: str) -> Dialogue:
    messages = with_system(row, _talk(row, column, where), where)
    check_prompt(row, messages, column, where)
    return Dialogue(messages, options=options_of(row, where))


def _completion(row: Mapping[str, Any], where: str, prompt: str, completion: str) -> Dialogue:
    if isinstance(row[prompt], list | tuple) or isinstance(row[completion], list | tuple):
        before, after = messages_of(row, prompt, where), messages_of(row, completion, where)
        if [message["role"] for message in after] != ["assistant"]:
            raise InputError(f"{where}: its completion has to be one message of the assistant; mend the row")
        messages = with_system(row, [*before, *after], where)
        return Dialogue(messages, last_only=True, options=options_of(row, where))
    asked = text_of(row, prompt, where, may_be_empty=True)
    return Dialogue(prompt=asked, completion=text_of(row, completion, where))


def _turn(row: Mapping[str, Any], where: str, asked: str, answered: str) -> Dialogue:
    before, question = _before(row, where), _asked(row, asked, where)
    answer = {"role": "assistant", "content": text_of(row, answered, where)}
    options = options_of(row, where)
    return Dialogue([*before, question, answer], options=options)


def _plain(row: Mapping[str, Any], where: str, column: str) -> Dialogue:
    return Dialogue(completion=text_of(row, column, where))


_SHAPES: tuple[tuple[tuple[str, ...], Callable[..., Dialogue]], ...] = (
    (("messages",), _messages),
    (("conversations",), _messages),
    (("conversation",), _messages),
    (("prompt", "completion"), _completion),
    (("question", "answer"), _turn),
    (("query", "answer"), _turn),
    (("instruction", "output"), _turn),
    (("instruction", "response"), _turn),
    (("question", "response"), _turn),
    (("query", "response"), _turn),
    (("text",), _plain),
)


def _before(row: Mapping[str, Any], where: str) -> list[Message]:
    """The messages before the question: those of the columns system and history."""
    turns: list[Message] = []
    if "history" in row and isinstance(history := dict(row)["history"], list | tuple):
        row.get("history")  # text in a column of this name is not turns, and is reported as not read
        if all(isinstance(turn, Mapping) for turn in history):
            turns = messages_of(row, "history", where) if history else []
        else:
            turns = [message for i, pair in enumerate(history, 1) for message in _pair(pair, f"{where}, history {i}")]
    return with_system(row, turns, where)


def _pair(pair: Any, where: str) -> list[Message]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InputError(f"{where}: {kind_of(pair)}, wanted a question and its answer; mend the row")
    return [
        {"role": role, "content": text_of({"history": text}, "history", where)}
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _asked(row: Mapping[str, Any], column: str, where: str) -> Message:
    """The user's message: an instruction may have an input or a context below it."""
    below = [name for name in ("input", "context") if column == "instruction" and name in row]
    parts = [text_of(row, column, where)]
    parts += [text_of({name: row.get(name) or ""}, name, where, may_be_empty=True) for name in below]
    return {"role": "user", "content": "\n\n".join(part for i, part in enumerate(parts) if not i or part.strip())}
