"""Converting instruction rows of any common shape to one type, Dialogue. The columns of a row tell its shape.

| shape      | columns                           | meaning                                                   |
|------------|-----------------------------------|-----------------------------------------------------------|
| chat       | messages                          | role and content of each message                          |
| ShareGPT   | conversations                     | from and value of each message                            |
| completion | prompt, completion                | plain text, or messages of which the completion is learnt |
| question   | question, answer                  | a user's turn and the assistant's                         |
| query      | query, answer                     | the same                                                  |
| Alpaca     | instruction, output; maybe input  | the same, the input below the instruction                 |
| text       | text                              | all of it is learnt                                       |

Where several shapes fit, the first of them is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.data.report import convert_each
from jaxllm.types import InputError

Message = dict[str, Any]
"""role ("system", "user", "assistant", "tool") and content; other keys are passed to the chat template unchanged."""

PROMPT_COLUMNS = ("prompt", "question", "query", "instruction")
"""Columns that hold the prompt of a row whose answers are in other columns, in the order of preference."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A row to learn from: messages or, where there are none, a prompt and its completion as plain text."""

    messages: Sequence[Message] = ()
    prompt: str = ""
    completion: str = ""
    last_only: bool = False
    """Only the last of the assistant's turns is learnt."""


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
          "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool",
          "observation": "tool", "function_response": "tool"}  # fmt: skip


def dialogue(row: Mapping[str, Any], where: str) -> Dialogue:
    """Converts a row. Raises InputError, beginning with `where`, for missing, empty or mistyped columns."""
    for columns, build in _SHAPES:
        if all(column in row for column in columns):
            return build(row, where, *columns)
    known = "; ".join(" and ".join(columns) for columns, _ in _SHAPES)
    raise InputError(f"{where}: its columns are {', '.join(row) or 'none'}; wanted one of: {known}")


def dialogues(rows: Any, *, where: Callable[[int], str]) -> list[Dialogue]:
    """Converts all rows. Raises InputError that names the bad ones."""
    return convert_each(rows, dialogue, where)


def prompt_of(row: Mapping[str, Any], where: str) -> str | list[Message]:
    """The prompt of a row, text or messages, for rows whose answers are in other columns (chosen and rejected).

    Raises InputError for a row without a prompt, or with an empty one.
    """
    column = next((name for name in PROMPT_COLUMNS if name in row), None)
    if column is None:
        raise InputError(f"{where}: it has no prompt, question, query or instruction; its columns are {', '.join(row)}")
    if column != "prompt":
        return [_asked(row, column, where)]
    return messages_of(row, column, where) if isinstance(row[column], list | tuple) else _text(row, column, where)


def messages_of(row: Mapping[str, Any], column: str, where: str) -> list[Message]:
    """A column of messages, each with role and content. Raises InputError, beginning with `where`."""
    given = row[column]
    if not isinstance(given, list | tuple):
        raise _mistyped(column, given, "a list of messages", where)
    if other := [x for x in given if not isinstance(x, Mapping)]:
        raise InputError(f"{where}: its {column} holds {_kind(other[0])}, wanted messages alone; mend the row")
    if not given:
        raise _empty(column, where)
    return [_message(message, f"{where}, message {i}") for i, message in enumerate(given, start=1)]


def _messages(row: Mapping[str, Any], where: str, column: str) -> Dialogue:
    return Dialogue(messages_of(row, column, where))


def _completion(row: Mapping[str, Any], where: str, prompt: str, completion: str) -> Dialogue:
    if isinstance(row[prompt], list | tuple) or isinstance(row[completion], list | tuple):
        before, after = messages_of(row, prompt, where), messages_of(row, completion, where)
        if [message["role"] for message in after] != ["assistant"]:
            raise InputError(f"{where}: its completion has to be one message of the assistant; mend the row")
        return Dialogue([*before, *after], last_only=True)
    return Dialogue(prompt=_text(row, prompt, where, empty=True), completion=_text(row, completion, where))


def _turn(row: Mapping[str, Any], where: str, asked: str, answered: str) -> Dialogue:
    return Dialogue([_asked(row, asked, where), {"role": "assistant", "content": _text(row, answered, where)}])


def _plain(row: Mapping[str, Any], where: str, column: str) -> Dialogue:
    return Dialogue(completion=_text(row, column, where))


_SHAPES: tuple[tuple[tuple[str, ...], Callable[..., Dialogue]], ...] = (
    (("messages",), _messages),
    (("conversations",), _messages),
    (("prompt", "completion"), _completion),
    (("question", "answer"), _turn),
    (("query", "answer"), _turn),
    (("instruction", "output"), _turn),
    (("text",), _plain),
)


def _asked(row: Mapping[str, Any], column: str, where: str) -> Message:
    """The user's message: an instruction may have an input below it."""
    given = (row.get("input") or "") if column == "instruction" else ""
    more = _text({"input": given}, "input", where, empty=True)
    text = _text(row, column, where)
    return {"role": "user", "content": f"{text}\n\n{more}" if more.strip() else text}


def _text(row: Mapping[str, Any], column: str, where: str, *, empty: bool = False) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise _mistyped(column, text, "text", where)
    if not empty and not text.strip():
        raise _empty(column, where)
    return text


def _message(message: Mapping[str, Any], where: str) -> Message:
    """A message with role and content, whether it was written so or as from and value."""
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if role not in _ROLES:
        raise InputError(f"{where}: its role is {role!r}, known are {', '.join(_ROLES)}; mend the row")
    more = {k: x for k, x in message.items() if k not in ("role", "content", "from", "value") and x is not None}
    if content is None and more.get("tool_calls"):
        content = ""
    content = _text({"content": content}, "content", where, empty=bool(more.get("tool_calls")))
    return {"role": _ROLES[role], "content": content, **more}


def _mistyped(column: str, given: Any, wanted: str, where: str) -> InputError:
    return InputError(f"{where}: its {column} is {_kind(given)}, wanted {wanted}; mend the row")


def _empty(column: str, where: str) -> InputError:
    return InputError(f"{where}: its {column} is empty; fill it in or remove the row")


def _kind(x: Any) -> str:
    name = type(x).__name__
    return "absent" if x is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
