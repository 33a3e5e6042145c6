"""Tokenising the texts of many rows in one call, in which the tokenizer works on all cores.

What converts a row is a generator: it yields what it wants tokenised, once, is sent the tokens, and returns its result.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from jaxllm.data.chat.messages import Message

T = TypeVar("T")

_ROWS, _CHARACTERS = 512, 2**22
"""How many rows are tokenised at once, and how many characters: all that a tokenizer says of a text takes far more
memory than its tokens."""


class Text(NamedTuple):
    """A text, for its tokens. bare: its begin and end tokens are written out; otherwise the begin token is added."""

    text: str
    bare: bool = True


class Chat(NamedTuple):
    """A conversation, for its tokens and the mask of those that the chat template marks; None if it has to be alone."""

    messages: Sequence[Message]
    options: Mapping[str, Any]


Wanted: TypeAlias = Text | Chat
Steps: TypeAlias = Generator[Sequence[Wanted], list[Any], T]


def alone(steps: Steps[T], tokenizer: Any) -> T:
    """The result of one conversion."""
    return _finish(steps, tokens_of(next(steps), tokenizer))


def gather(conversions: Sequence[Steps[T]]) -> Steps[list[T]]:
    """Several conversions as one."""
    wanted = [next(steps) for steps in conversions]
    given = iter((yield [x for some in wanted for x in some]))
    return [_finish(steps, [next(given) for _ in some]) for steps, some in zip(conversions, wanted, strict=True)]


def together(conversions: Iterable[Steps[T]], tokenizer: Any) -> Iterator[Callable[[], T]]:
    """For each conversion, in order, what gives its result, or raises what it raised; many are tokenised at once."""
    waiting: list[tuple[Steps[T], Sequence[Wanted], Exception | None]] = []
    characters = 0
    for steps in conversions:
        try:
            waiting.append((steps, wanted := next(steps), None))
            characters += sum(map(_size, wanted))
        except Exception as error:  # it is raised where the row's turn comes
            waiting.append((steps, (), error))
        if len(waiting) == _ROWS or characters >= _CHARACTERS:
            yield from _results(waiting, tokenizer)
            waiting, characters = [], 0
    yield from _results(waiting, tokenizer)


def tokens_of(wanted: Sequence[Wanted], tokenizer: Any) -> list[Any]:
    """What each asks for: a list of tokens, or tokens and mask."""
    found: list[Any] = [None] * len(wanted)
    for bare in (True, False):
        texts = {i: one.text for i, one in enumerate(wanted) if isinstance(one, Text) and one.bare == bare}
        if texts:
            ids = tokenizer([*texts.values()], add_special_tokens=not bare)["input_ids"]
            end = -1 if not bare and _adds_eos(tokenizer) else None
            for i, tokens in zip(texts, ids, strict=True):
                found[i] = list(tokens)[:end]
    chats = {i: [*one.messages] for i, one in enumerate(wanted) if isinstance(one, Chat) and not one.options}
    if len(chats) > 1:
        with contextlib.suppress(Exception):  # a template may raise any exception, and each is shown alone then
            shown = tokenizer.apply_chat_template(
                [*chats.values()], return_dict=True, return_assistant_tokens_mask=True
            )
            for i, *one in zip(chats, shown["input_ids"], shown["assistant_masks"], strict=True):
                found[i] = one
    return found


def _results(
    waiting: Sequence[tuple[Steps[T], Sequence[Wanted], Exception | None]], tokenizer: Any
) -> Iterator[Callable[[], T]]:
    given = iter(tokens_of([x for _, wanted, _ in waiting for x in wanted], tokenizer))
    for steps, wanted, error in waiting:
        yield functools.partial(_finish, steps, [next(given) for _ in wanted], error)


def _finish(steps: Steps[T], given: list[Any], error: Exception | None = None) -> T:
    if error is not None:
        raise error
    try:
        steps.send(given)
    except StopIteration as end:
        return end.value
    raise AssertionError("a conversion asks once")


def _size(one: Wanted) -> int:
    return len(one.text) if isinstance(one, Text) else sum(len(message["content"]) for message in one.messages)


@functools.lru_cache(maxsize=8)
def _adds_eos(tokenizer: Any) -> bool:
    """Whether the tokenizer ends every text with EOS."""
    return list(tokenizer("a")["input_ids"])[-1] == tokenizer.eos_token_id
