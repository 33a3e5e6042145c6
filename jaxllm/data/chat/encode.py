"""Encoding conversations as tokens, and finding the tokens to learn: the assistant's answers.

A chat template may mark them with `{% generation %}`. Without marks, the prompt of each answer is rendered alone: an
answer begins where the tokens of the conversation first differ from those of the prompt, so that a token across the
boundary is learnt, and ends with the token that ends the assistant's turns. That end token is always learnt, because a
model that is not trained on it does not stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.chat.messages import Message
from jaxllm.data.chat.render import common_length, has_marks, render, text_of_chat, turn_end, turn_marks
from jaxllm.data.chat.rows import OPTIONS, Dialogue
from jaxllm.data.chat.together import Chat, Steps, Text, alone, tokens_of
from jaxllm.data.report import BadRow
from jaxllm.types import InputError


class Encoded(NamedTuple):
    """The tokens of a row (int32 [T]), and which of them are learnt (bool [T]): answers and their end tokens."""

    tokens: np.ndarray
    trained: np.ndarray


def encode(dialogue: Dialogue, tokenizer: Any, *, where: str) -> Encoded:
    """Encodes a row. Raises InputError, as the functions below do."""
    return alone(encoding(dialogue, tokenizer, where=where), tokenizer)


def encode_messages(messages: Sequence[Message], tokenizer: Any, **how: Any) -> Encoded:
    """Encodes a conversation alone, as `encoding_messages` says."""
    return alone(encoding_messages(messages, tokenizer, **how), tokenizer)


def encode_completion(prompt: str, completion: str, tokenizer: Any, *, where: str) -> Encoded:
    """Encodes plain text alone, as `encoding_completion` says."""
    return alone(encoding_completion(prompt, completion, tokenizer, where=where), tokenizer)


def encoding(dialogue: Dialogue, tokenizer: Any, *, where: str) -> Steps[Encoded]:
    """Encodes a row, in steps. Raises InputError, as the two functions below do."""
    if dialogue.messages:
        return encoding_messages(
            dialogue.messages, tokenizer, where=where, last_only=dialogue.last_only, options=dialogue.options
        )
    return encoding_completion(dialogue.prompt, dialogue.completion, tokenizer, where=where)


def encoding_messages(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    where: str,
    last_only: bool = False,
    skip: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Steps[Encoded]:
    """Encodes a conversation with the tokenizer's chat template, in steps.

    last_only: only the last of the assistant's turns is learnt. skip: the first so many of them are not; nor are those
    whose message has `weight` 0. options: arguments of the template, such as tools. Raises BadRow, beginning with
    `where`, for roles out of order, for conversations that the template refuses or shows without their tool calls, and
    where the assistant's turns cannot be told from the rest; InputError for a template that does not end turns.
    """
    check_roles(messages, where)
    end, options, marks = turn_end(tokenizer), options or {}, turn_marks(tokenizer)
    for i, message in enumerate(messages, start=1):
        if name := next((mark for mark in marks if mark in message["content"]), ""):
            raise BadRow(
                f"{where}, message {i}: it spells {name}, with which the chat template marks turns; mend the row",
                f"a message spells {name}",
            )
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if has_marks(tokenizer, options):
        found = yield from _marked(messages, tokenizer, end, where, options)
    else:
        found = yield from _by_prefix(messages, answers, tokenizer, end, where, options)
    _check_tool_calls(messages, tokenizer, where, options)
    ends = np.flatnonzero(found.trained & (found.tokens == end))
    if len(ends) != len(answers):
        token = tokenizer.convert_ids_to_tokens(end)
        kind = f"the chat template shows {len(ends)} ends of turns to learn ({token}) for {len(answers)} turns of the "
        kind += "assistant"
        raise BadRow(f"{where}: {kind}; give another by --chat-template", kind)
    first = len(answers) - 1 if last_only else skip
    for number, (start, stop) in enumerate(zip([-1, *ends[:-1]], ends, strict=True)):
        if number < first or not messages[answers[number]].get("weight", 1):
            found.trained[start + 1 : stop + 1] = False
    return found


def ignored_options(dialogue: Dialogue, tokenizer: Any) -> list[str]:
    """Those of tools and documents that the chat template renders nothing of."""
    given = [name for name in OPTIONS if dialogue.options.get(name)]

    def shown(left_out: str) -> str:
        options = {name: x for name, x in dialogue.options.items() if name != left_out}
        return text_of_chat(dialogue.messages, tokenizer, "", options)

    whole = shown("") if given else ""
    return [name for name in given if whole == shown(name)]


def _check_tool_calls(messages: Sequence[Message], tokenizer: Any, where: str, options: Mapping[str, Any]) -> None:
    """Raises BadRow where the template renders a message the same without its tool calls."""
    calling = [i for i, message in enumerate(messages) if message.get("tool_calls")]
    whole = text_of_chat(messages, tokenizer, where, options) if calling else ""
    for i in calling:
        without = {name: x for name, x in messages[i].items() if name != "tool_calls"}
        try:
            changed = text_of_chat([*messages[:i], without, *messages[i + 1 :]], tokenizer, where, options)
        except BadRow:  # it tells them apart
            continue
        if changed == whole:
            raise BadRow(
                f"{where}, message {i + 1}: the chat template does not show its tool calls; give another by "
                "--chat-template",
                "tool calls that the chat template does not show",
            )


def encoding_completion(prompt: str, completion: str, tokenizer: Any, *, where: str) -> Steps[Encoded]:
    """Encodes plain text, in steps: the begin token if there is one, the prompt (may be empty), its completion, EOS.

    Prompt and completion are tokenised as one text. Raises InputError for an empty completion, and without EOS.
    """
    if not completion:
        raise BadRow(f"{where}: the completion is empty; fill it in or remove the row", "completion is empty")
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the tokenizer has no end-of-text token (eos_token); name another by --tokenizer")
    before, tokens = yield [_prompt(prompt, tokenizer), _prompt(prompt + completion, tokenizer)]
    if tokens[-1] != end:  # the text may end with EOS itself
        tokens.append(end)
    trained = np.ones(len(tokens), bool)
    trained[: common_length(before, tokens)] = False
    return Encoded(np.array(tokens, np.int32), trained)


def prompt_tokens(messages: Sequence[Message], tokenizer: Any, options: Mapping[str, Any] | None = None) -> list[int]:
    """The tokens of a conversation up to the assistant's next answer. Raises InputError if the template refuses it."""
    text = text_of_chat(messages, tokenizer, "the prompt", options or {}, begun=True)
    return tokens_of([Text(text)], tokenizer)[0]


def prompt_of_text(prompt: str, tokenizer: Any) -> list[int]:
    """The tokens of a plain prompt, with the tokenizer's begin token and without an end token."""
    return tokens_of([_prompt(prompt, tokenizer)], tokenizer)[0]


def _prompt(text: str, tokenizer: Any) -> Text:
    return Text(text, bare=bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token))


def check_roles(messages: Sequence[Message], where: str) -> None:
    """Raises BadRow unless the roles are an optional system, then user and assistant in turn, assistant last.

    A tool's message follows the assistant's, and after it the assistant continues.
    """
    roles = [message["role"] for message in messages]
    fault = f"{where}: roles out of order ({', '.join(roles)})"
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected: tuple[str, ...] = ("user",)
    for role in turns:
        if role not in expected:
            wanted = " or ".join(expected)
            raise BadRow(f"{fault}: wanted {wanted}, found {role}; mend the row", "roles out of order")
        expected = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}[role]
    if not turns or turns[-1] != "assistant":
        raise BadRow(f"{fault}: the last has to be the assistant; mend the row", "roles out of order")


def _marked(
    messages: Sequence[Message], tokenizer: Any, end: int, where: str, options: Mapping[str, Any]
) -> Steps[Encoded]:
    """Encodes with a template that marks answers; each marked run is made to end with the end token."""
    (shown,) = yield [Chat(messages, options)]
    if shown is None:
        rendered = render(messages, tokenizer, where, options, return_dict=True, return_assistant_tokens_mask=True)
        shown = rendered["input_ids"], rendered["assistant_masks"]
    tokens, trained = np.array(shown[0], np.int32), np.array(shown[1], bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]])))
    starts, stops = edges[::2], edges[1::2]
    ends = np.flatnonzero(tokens == end)
    for start, stop, following in zip(starts, stops, [*starts, len(tokens)][1:], strict=True):
        at = next((i for i in ends if i >= start), len(tokens))
        if at < stop:
            trained[at + 1 : stop] = False
        elif at < following:  # otherwise the turn continues after a gap
            trained[at] = True
    return Encoded(tokens, trained)


def _by_prefix(
    messages: Sequence[Message],
    answers: Sequence[int],
    tokenizer: Any,
    end: int,
    where: str,
    options: Mapping[str, Any],
) -> Steps[Encoded]:
    """Encodes with a template without marks, by rendering the conversation before each answer."""
    text = text_of_chat(messages, tokenizer, where, options)
    prompts = []
    for i in answers:
        before = text_of_chat(messages[:i], tokenizer, where, options, begun=True)
        if not text.startswith(before):
            raise BadRow(
                f"{where}: the chat template renders what comes before the assistant's turn (message {i + 1}) "
                "otherwise once the turn follows, so answers cannot be told from prompts; give a --chat-template with "
                "{% generation %} marks",
                "the chat template renders a prompt otherwise once its answer follows",
            )
        prompts.append(Text(before))
    tokens, *befores = yield [Text(text), *prompts]
    trained = np.zeros(len(tokens), bool)
    starts = [common_length(before, tokens) for before in befores]
    for start, following in zip(starts, [*starts[1:], len(tokens)], strict=True):
        stop = next((i + 1 for i in range(start, following) if tokens[i] == end), start)
        trained[start:stop] = True
    return Encoded(np.array(tokens, np.int32), trained)
