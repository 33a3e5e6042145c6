"""What a row of instructions says: its shape recognised by its columns, and given as one kind of thing.

| shape      | columns                           | is                                                       |
|------------|-----------------------------------|----------------------------------------------------------|
| chat       | messages                          | role and content of each message                         |
| ShareGPT   | conversations                     | from and value of each message                           |
| completion | prompt, completion                | plain text, or messages of which the completion is learnt |
| question   | question, answer                  | a user's turn and the assistant's                        |
| query      | query, answer                     | the same                                                 |
| Alpaca     | instruction, output; maybe input  | the same, the input below the instruction                |
| text       | text                              | all of it is learnt                                      |

The first shape whose columns are there is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxllm.types import InputError

T = TypeVar("T")

Message = dict[str, Any]
"""role ("system", "user", "assistant", "tool") and content; what else it holds goes to the chat template as it is."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """What to learn from a row: messages, or where there are none a prompt and its completion as plain text."""

    messages: Sequence[Message] = ()
    prompt: str = ""
    completion: str = ""
    last_only: bool = False
    """Of the assistant's turns only the last is learnt."""


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
          "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool",
          "observation": "tool", "function_response": "tool"}  # fmt: skip


def dialogue(row: Mapping[str, Any], where: str) -> Dialogue:
    """What a row says. Raises InputError, beginning with `where`, for columns that are missing, empty or of another
    type."""
    for columns, build in _SHAPES:
        if all(column in row for column in columns):
            return build(row, where)
    known = "; ".join(" and ".join(columns) for columns, _ in _SHAPES)
    raise InputError(f"{where}: its columns are {', '.join(row) or 'none'}; wanted one of: {known}")


def prompt_of(row: Mapping[str, Any], where: str) -> str | list[Message]:
    """The prompt of a row alone: text, or messages. For rows whose answers stand elsewhere, as chosen and rejected do.

    Raises InputError for a row without a prompt, or with one that is empty.
    """
    if "prompt" in row:
        prompt = row["prompt"]
        return messages_of(row, "prompt", where) if isinstance(prompt, list | tuple) else _text(row, "prompt", where)
    for column in ("question", "query", "instruction"):
        if column in row:
            return [{"role": "user", "content": _asked(row, column, where)}]
    raise InputError(f"{where}: it has no prompt, question, query or instruction; its columns are {', '.join(row)}")


def each(rows: Iterable[T], fn: Callable[[T, str], Any], where: Callable[[int], str]) -> list[Any]:
    """`fn(row, where(i))` of every row. Raises one InputError for all bad rows: the first in full, the others by place
    and number."""
    found: list[Any] = []
    wrong: list[tuple[str, str]] = []
    for i, row in enumerate(rows):
        try:
            found.append(fn(row, where(i)))
        except InputError as error:
            wrong.append((where(i), str(error)))
    if wrong:
        (_, message), *others = wrong
        # "train.jsonl, line 4" beside "train.jsonl, line 9" is "line 9".
        places = [place.rpartition(", ")[2] for place, _ in others[:8]]
        more = f" ... and {len(others)} more: {', '.join(places)}{', ...' if len(others) > 8 else ''}"
        raise InputError(message + (more if others else ""))
    return found


def dialogues(rows: Any, *, where: Callable[[int], str]) -> list[Dialogue]:
    """What all rows say. Raises InputError that names the bad ones."""
    return each(rows, dialogue, where)


def _chat(row: Mapping[str, Any], where: str) -> Dialogue:
    return Dialogue(messages_of(row, "messages", where))


def _sharegpt(row: Mapping[str, Any], where: str) -> Dialogue:
    return Dialogue(messages_of(row, "conversations", where))


def _completion(row: Mapping[str, Any], where: str) -> Dialogue:
    if isinstance(row["prompt"], list | tuple) or isinstance(row["completion"], list | tuple):
        prompt, completion = messages_of(row, "prompt", where), messages_of(row, "completion", where)
        if [message["role"] for message in completion] != ["assistant"]:
            raise InputError(f"{where}: its completion has to be one message of the assistant; mend the row")
        return Dialogue([*prompt, *completion], last_only=True)
    prompt_text = row["prompt"]
    if not isinstance(prompt_text, str):
        raise InputError(f"{where}: its prompt is {_kind(prompt_text)}, wanted text; mend the row")
    return Dialogue(prompt=prompt_text, completion=_text(row, "completion", where))


def _question(row: Mapping[str, Any], where: str) -> Dialogue:
    return _turn(row, "question", "answer", where)


def _query(row: Mapping[str, Any], where: str) -> Dialogue:
    return _turn(row, "query", "answer", where)


def _alpaca(row: Mapping[str, Any], where: str) -> Dialogue:
    return _turn(row, "instruction", "output", where)


def _plain(row: Mapping[str, Any], where: str) -> Dialogue:
    return Dialogue(completion=_text(row, "text", where))


_SHAPES: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], str], Dialogue]], ...] = (
    (("messages",), _chat),
    (("conversations",), _sharegpt),
    (("prompt", "completion"), _completion),
    (("question", "answer"), _question),
    (("query", "answer"), _query),
    (("instruction", "output"), _alpaca),
    (("text",), _plain),
)


def _turn(row: Mapping[str, Any], asked: str, answered: str, where: str) -> Dialogue:
    user = {"role": "user", "content": _asked(row, asked, where)}
    return Dialogue([user, {"role": "assistant", "content": _text(row, answered, where)}])


def _asked(row: Mapping[str, Any], column: str, where: str) -> str:
    """The user's words: an instruction may have an input below it."""
    more = (row.get("input") or "") if column == "instruction" else ""
    if not isinstance(more, str):
        raise InputError(f"{where}: its input is {_kind(more)}, wanted text; mend the row")
    text = _text(row, column, where)
    return f"{text}\n\n{more}" if more.strip() else text


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise InputError(f"{where}: its {column} is {_kind(text)}, wanted text; mend the row")
    if not text.strip():
        raise InputError(f"{where}: its {column} is empty; fill it in or remove the row")
    return text


def messages_of(row: Mapping[str, Any], column: str, where: str) -> list[Message]:
    """A column of messages, each with role and content. Raises InputError, beginning with `where`."""
    given = row[column]
    if not isinstance(given, list | tuple):
        raise InputError(f"{where}: its {column} is {_kind(given)}, wanted a list of messages; mend the row")
    if other := [x for x in given if not isinstance(x, Mapping)]:
        raise InputError(f"{where}: its {column} holds {_kind(other[0])}, wanted messages alone; mend the row")
    if not given:
        raise InputError(f"{where}: its {column} is empty; fill it in or remove the row")
    return [_message(message, f"{where}, message {i}") for i, message in enumerate(given, start=1)]


def _message(message: Mapping[str, Any], where: str) -> Message:
    """A message with role and content, whether it was written so or as from and value."""
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if role not in _ROLES:
        raise InputError(f"{where}: its role is {role!r}, known are {', '.join(_ROLES)}; mend the row")
    more = {k: x for k, x in message.items() if k not in ("role", "content", "from", "value") and x is not None}
    if content is None and more.get("tool_calls"):
        content = ""
    elif not isinstance(content, str):
        raise InputError(f"{where}: its content is {_kind(content)}, wanted text; mend the row")
    elif not content.strip() and not more.get("tool_calls"):
        raise InputError(f"{where}: its content is empty; fill it in or remove the row")
    return {"role": _ROLES[role], "content": content, **more}


def _kind(x: Any) -> str:
    name = type(x).__name__
    return "absent" if x is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
