"""Messages and texts in the columns of a row, checked, and one line for what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.report import BadRow, check_text
from jaxllm.types import InputError

Message = dict[str, Any]
"""role ("system", "user", "assistant", "tool") and content; other keys are passed to the chat template unchanged.
`weight`, of an assistant's message, is 0 if it is not learnt."""

_ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
          "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
          "function_call": "assistant", "system": "system", "tool": "tool", "observation": "tool",
          "function_response": "tool", "function": "tool"}  # fmt: skip

_LEARNT = ("train", "training", "loss")
"""Names under which other trainers (axolotl, ms-swift) say by true and false whether a message is learnt."""


def messages_of(row: Mapping[str, Any], column: str, where: str) -> list[Message]:
    """A column of messages, each with role and content. Raises InputError, beginning with `where`."""
    given = row[column]
    if given is None:
        raise absent(column, "a list of messages", where)
    if not isinstance(given, list | tuple):
        raise mistyped(column, given, "a list of messages", where)
    if other := [x for x in given if not isinstance(x, Mapping)]:
        raise InputError(f"{where}: its {column} holds {kind_of(other[0])}, wanted messages alone; mend the row")
    if not given:
        raise empty(column, where)
    found = [_message(message, f"{where}, message {i}") for i, message in enumerate(given, start=1)]
    return [message for message in found if message is not None]


def text_of(row: Mapping[str, Any], column: str, where: str, *, may_be_empty: bool = False) -> str:
    """The text in a column. Raises BadRow where it is null, empty or no Unicode, InputError for another type."""
    text = row[column]
    if text is None:
        raise absent(column, "text", where)
    if not isinstance(text, str):
        raise mistyped(column, text, "text", where)
    check_text(text, where, column)
    if not may_be_empty and not text.strip():
        raise empty(column, where)
    return text


def check_prompt(row: Mapping[str, Any], messages: Sequence[Message], column: str, where: str) -> None:
    """Raises BadRow where the row's `prompt` is not what its conversation in another column begins with.

    A prompt of text may be one message, stand in one, or show several as a template does; one of messages may lack the
    system's. `--columns` that names the column of the conversation has it believed alone.
    """
    given = dict(row).get("prompt")
    messages_too = isinstance(given, list | tuple) and all(isinstance(message, Mapping) for message in given)
    if not given or column in getattr(row, "named", ()) or not (isinstance(given, str) or messages_too):
        return  # a column of another meaning is reported as not read
    asked = [_squeezed(x["content"]) for x in messages if x["role"] != "assistant"]
    if isinstance(given, str):
        prompt = _squeezed(row["prompt"])
        agrees = any(x.startswith(prompt) or x.endswith(prompt) or x in prompt for x in asked if x) or not asked
    else:
        pairs = [
            [(x["role"], _squeezed(x["content"])) for x in some if x["role"] != "system"]
            for some in (messages_of(row, "prompt", where), messages)
        ]
        agrees = pairs[1][: len(pairs[0])] == pairs[0]
    if not agrees:
        raise BadRow(
            f"{where}: its prompt is not what its {column} begins with; mend the row, or give --columns "
            f"{column}={column} to read no prompt",
            f"prompt and {column} contradict each other",
        )


def repeats(prompt: Any, answers: Sequence[Any]) -> bool:
    """Whether the prompt is text and every answer begins with it."""
    return isinstance(prompt, str) and bool(prompt.strip()) and all(x.startswith(prompt) for x in answers)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _message(message: Mapping[str, Any], where: str) -> Message | None:
    """A message with role and content, however it was written; None for a system's message that says nothing."""
    role = message.get("role") or message.get("from")
    content = message.get("value") if message.get("content") is None else message["content"]
    if role not in _ROLES:
        raise InputError(f"{where}: its role is {role!r}, known are {', '.join(_ROLES)}; mend the row")
    more = {k: x for k, x in message.items() if k not in ("role", "content", "from", "value") and x is not None}
    check_text(more, where, "message")
    for name in _LEARNT:
        if _ROLES[role] == "assistant" and isinstance(more.get(name), bool):
            more["weight"] = int(more.pop(name))
    if isinstance(more.get("function_call"), Mapping):  # OpenAI's name before tool_calls
        more["tool_calls"] = [{"type": "function", "function": more.pop("function_call")}]
    if more.get("weight", 0) not in (0, 1):
        raise InputError(f"{where}: its weight is {more['weight']!r}, wanted 0 or 1; mend the row")
    content = _joined(content, where) if isinstance(content, list | tuple) else content
    if _ROLES[role] == "system" and (content is None or content == ""):
        return None
    if content is None and more.get("tool_calls"):
        content = ""
    content = text_of({"content": content}, "content", where, may_be_empty=bool(more.get("tool_calls")))
    return {"role": _ROLES[role], "content": content, **more}


def _joined(parts: Sequence[Any], where: str) -> str:
    """The text of a content given as a list of parts."""
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            name = "text without text" if kind == "text" else str(kind)
            message = f"{where}: its content has a part that is no text ({name}); remove the part or the row"
            raise BadRow(message, f"content with a part that is no text ({name})")
    return "".join(part["text"] for part in parts)


def mistyped(column: str, given: Any, wanted: str, where: str) -> InputError:
    """The error for a column of another type."""
    return InputError(f"{where}: its {column} is {kind_of(given)}, wanted {wanted}; mend the row")


def empty(column: str, where: str) -> BadRow:
    """The error for a column that is empty."""
    return BadRow(f"{where}: its {column} is empty; fill it in or remove the row", f"{column} is empty")


def absent(column: str, wanted: str, where: str) -> BadRow:
    """The error for a column that is null."""
    return BadRow(f"{where}: its {column} is absent, wanted {wanted}; mend the row", f"{column} is absent")


def kind_of(x: Any) -> str:
    """The type of a value in words: "an int"."""
    name = type(x).__name__
    return "absent" if x is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
