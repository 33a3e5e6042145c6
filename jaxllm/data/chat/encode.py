"""Encoding conversations as tokens, and finding the tokens to learn: the assistant's answers.

A chat template may mark them with `{% generation %}`. Without marks, the prompt of each answer is rendered alone: an
answer begins where the tokens of the conversation first differ from those of the prompt, so that a token across the
boundary is learnt, and ends with the token that ends the assistant's turns. That end token is always learnt, because a
model that is not trained on it does not stop.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.chat.rows import Dialogue, Message
from jaxllm.types import InputError

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

NO_TEMPLATE = "the tokenizer has no chat template; give --chat-template plain, chatml or a .jinja file"


class Encoded(NamedTuple):
    """The tokens of a row (int32 [T]), and which of them are learnt (bool [T]): answers and their end tokens."""

    tokens: np.ndarray
    trained: np.ndarray


def encode(dialogue: Dialogue, tokenizer: Any, *, where: str) -> Encoded:
    """Encodes a row. Raises InputError, as the two functions below do."""
    if dialogue.messages:
        return encode_messages(dialogue.messages, tokenizer, where=where, last_only=dialogue.last_only)
    return encode_completion(dialogue.prompt, dialogue.completion, tokenizer, where=where)


def encode_messages(messages: Sequence[Message], tokenizer: Any, *, where: str, last_only: bool = False) -> Encoded:
    """Encodes a conversation with the tokenizer's chat template.

    last_only: only the last of the assistant's turns is learnt. Raises InputError, beginning with `where`, for roles
    out of order and for conversations that the template refuses; and for a template whose assistant turns cannot be
    told from the rest, or do not end with a special token.
    """
    check_roles(messages, where)
    end = turn_end(tokenizer)
    for i, message in enumerate(messages, start=1):
        if _name(tokenizer, end) in message["content"]:
            raise InputError(
                f"{where}, message {i}: it spells {_name(tokenizer, end)}, which ends a turn; mend the row"
            )
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if _MARKS.search(_template(tokenizer)):
        found = _marked(messages, tokenizer, end, where)
    else:
        found = _by_prefix(messages, answers, tokenizer, end, where)
    ends = np.flatnonzero(found.trained & (found.tokens == end))
    if len(ends) != len(answers):
        raise InputError(
            f"{where}: the chat template shows {len(ends)} ends of turns to learn ({_name(tokenizer, end)}) for "
            f"{len(answers)} turns of the assistant; give another by --chat-template"
        )
    if last_only and len(ends) > 1:
        found.trained[: ends[-2] + 1] = False
    return found


def encode_completion(prompt: str, completion: str, tokenizer: Any, *, where: str) -> Encoded:
    """Encodes plain text: the tokenizer's begin token if it has one, the prompt (may be empty), its completion, EOS.

    Prompt and completion are tokenised as one text. Raises InputError for an empty completion, and without EOS.
    """
    if not completion:
        raise InputError(f"{where}: the completion is empty; fill it in or remove the row")
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the tokenizer has no end-of-text token (eos_token); name another by --tokenizer")
    before = prompt_of_text(prompt, tokenizer)
    tokens = prompt_of_text(prompt + completion, tokenizer)
    if tokens[-1] != end:  # the text may end with EOS itself
        tokens.append(end)
    trained = np.ones(len(tokens), bool)
    trained[: common_length(before, tokens)] = False
    return Encoded(np.array(tokens, np.int32), trained)


def prompt_tokens(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """The tokens of a conversation up to the assistant's next answer. Raises InputError if the template refuses it."""
    return _ids(_text(messages, tokenizer, "the prompt", begun=True), tokenizer)


def prompt_of_text(prompt: str, tokenizer: Any) -> list[int]:
    """The tokens of a plain prompt, with the tokenizer's begin token and without an end token."""
    if tokenizer.bos_token and prompt.startswith(tokenizer.bos_token):
        return _ids(prompt, tokenizer)
    tokens = list(tokenizer(prompt)["input_ids"])
    return tokens[:-1] if _adds_eos(tokenizer) else tokens


def check_roles(messages: Sequence[Message], where: str) -> None:
    """Raises InputError unless the roles are an optional system, then user and assistant in turn, assistant last.

    A tool's message follows the assistant's, and after it the assistant continues.
    """
    roles = [message["role"] for message in messages]
    fault = f"{where}: roles out of order ({', '.join(roles)})"
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected: tuple[str, ...] = ("user",)
    for role in turns:
        if role not in expected:
            raise InputError(f"{fault}: wanted {' or '.join(expected)}, found {role}; mend the row")
        expected = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}[role]
    if not turns or turns[-1] != "assistant":
        raise InputError(f"{fault}: the last has to be the assistant; mend the row")


def turn_end(tokenizer: Any) -> int:
    """The token with which the chat template ends an assistant's turn: EOS, or a special token like <|im_end|>.

    Found by rendering a conversation. Raises InputError for a template that ends turns with no special token, and for a
    tokenizer without a template.
    """
    return _turn_end(tokenizer, _template(tokenizer))


@functools.lru_cache(maxsize=8)
def _turn_end(tokenizer: Any, template: str) -> int:
    def render(answer: str) -> list[int]:
        chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        return _ids(_text(chat, tokenizer, "a chat"), tokenizer)

    one, other = render("Because 1"), render("No 2")
    after = one[len(one) - common_length(one[::-1], other[::-1]) :]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    found = [token for token in after if token in special]
    if not found:
        raise InputError(
            "the chat template does not end the assistant's turns with an end token: a model trained on it would not "
            "stop; give another by --chat-template, or add {{ eos_token }} to it"
        )
    return found[0]


def _marked(messages: Sequence[Message], tokenizer: Any, end: int, where: str) -> Encoded:
    """Encodes with a template that marks answers; each marked run is made to end with the end token."""
    rendered = _apply(messages, tokenizer, where, return_dict=True, return_assistant_tokens_mask=True)
    tokens = np.array(rendered["input_ids"], np.int32)
    trained = np.array(rendered["assistant_masks"], bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]])))
    starts, stops = edges[::2], edges[1::2]
    ends = np.flatnonzero(tokens == end)
    for start, stop, following in zip(starts, stops, [*starts[1:], len(tokens)], strict=True):
        at = next((i for i in ends if i >= start), len(tokens))
        if at < stop:
            trained[at + 1 : stop] = False
        elif at < following:  # otherwise the turn continues after a gap
            trained[at] = True
    return Encoded(tokens, trained)


def _by_prefix(messages: Sequence[Message], answers: Sequence[int], tokenizer: Any, end: int, where: str) -> Encoded:
    """Encodes with a template without marks, by rendering the conversation before each answer."""
    text = _text(messages, tokenizer, where)
    tokens = _ids(text, tokenizer)
    trained = np.zeros(len(tokens), bool)
    starts = []
    for i in answers:
        before = _text(messages[:i], tokenizer, where, begun=True)
        if not text.startswith(before):
            raise InputError(
                f"{where}: the chat template renders what comes before the assistant's turn (message {i + 1}) "
                "otherwise once the turn follows, so answers cannot be told from prompts; give a --chat-template with "
                "{% generation %} marks"
            )
        starts.append(common_length(_ids(before, tokenizer), tokens))
    for start, following in zip(starts, [*starts[1:], len(tokens)], strict=True):
        stop = next((i + 1 for i in range(start, following) if tokens[i] == end), start)
        trained[start:stop] = True
    return Encoded(np.array(tokens, np.int32), trained)


def _apply(messages: Sequence[Message], tokenizer: Any, where: str, **options: Any) -> Any:
    _template(tokenizer)
    try:
        return tokenizer.apply_chat_template([*messages], **options)
    except Exception as error:  # a template may raise any exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{where}: the chat template refuses it: {reason}; mend the row or the template") from None


def _text(messages: Sequence[Message], tokenizer: Any, where: str, *, begun: bool = False) -> str:
    return _apply(messages, tokenizer, where, tokenize=False, add_generation_prompt=begun)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _template(tokenizer: Any) -> str:
    """The text of the chat template. Raises InputError for a tokenizer without one."""
    if not tokenizer.chat_template:
        raise InputError(NO_TEMPLATE)
    return tokenizer.get_chat_template()


@functools.lru_cache(maxsize=8)
def _adds_eos(tokenizer: Any) -> bool:
    """Whether the tokenizer ends every text with EOS."""
    return list(tokenizer("a")["input_ids"])[-1] == tokenizer.eos_token_id


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the common beginning of two sequences."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _name(tokenizer: Any, token: int) -> str:
    return tokenizer.convert_ids_to_tokens(token)
