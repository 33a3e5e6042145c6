"""Rendering conversations with a chat template, and the special tokens that it writes around turns."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.chat.messages import Message
from jaxllm.data.chat.together import Text, tokens_of
from jaxllm.data.report import BadRow
from jaxllm.types import InputError

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)

NO_TEMPLATE = "the tokenizer has no chat template; give --chat-template plain, chatml or a .jinja file"


def turn_end(tokenizer: Any) -> int:
    """The token with which the chat template ends an assistant's turn: EOS, or an added token like <|im_end|>.

    Found by rendering a conversation. Raises InputError for a template that refuses that or ends turns with no such
    token, and for a tokenizer without a template.
    """
    return _turn_end(tokenizer, template_of(tokenizer, {}))


@functools.lru_cache(maxsize=8)
def _turn_end(tokenizer: Any, template: str) -> int:
    def conversation(answer: str) -> str:
        chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        try:
            return text_of_chat(chat, tokenizer, "", {})
        except BadRow as error:
            raise InputError(
                f"the chat template cannot show a question and its answer ({error.kind}); mend the template, or give "
                "another by --chat-template"
            ) from None

    one, other = conversation("Because 1"), conversation("No 2")
    # What follows the answer is found in the text: the tokenizer may not know the answer's letters.
    after = one[len(one) - common_length(one[::-1], other[::-1]) :]
    added, special = tokenizer.added_tokens_decoder, _special_ids(tokenizer)
    (ids,) = tokens_of([Text(after)], tokenizer)
    shown = [token for token in ids if tokenizer.convert_ids_to_tokens(token) in after]
    found = [token for token in shown if token in special]
    found += [token for token in shown if token in added and added[token].content.strip()]
    if not found:
        raise InputError(
            "the chat template does not end the assistant's turns with an end token: a model trained on it would not "
            "stop; give another by --chat-template, or add {{ eos_token }} to it"
        )
    return found[0]


def turn_marks(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens that the chat template writes around turns: the one that ends the assistant's, then others.

    Raises InputError, as `turn_end` does.
    """
    return _turn_marks(tokenizer, template_of(tokenizer, {}))


@functools.lru_cache(maxsize=8)
def _turn_marks(tokenizer: Any, template: str) -> tuple[str, ...]:
    end, answer = tokenizer.convert_ids_to_tokens(_turn_end(tokenizer, template)), "Because 1"
    roles = ("user", "Why?"), ("assistant", answer), ("user", "When?"), ("assistant", "No 2")
    try:
        text = text_of_chat([{"role": role, "content": content} for role, content in roles], tokenizer, "", {})
    except BadRow:  # it takes one question alone
        return (end,)
    before = text.partition(answer)[0]
    names = tokenizer.convert_ids_to_tokens(sorted(_special_ids(tokenizer)))
    return (end, *(name for name in names if name in before and name != end))


def _special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def has_marks(tokenizer: Any, options: Mapping[str, Any] | None = None) -> bool:
    """Whether the chat template marks answers with `{% generation %}`, and not only in a comment."""
    return _has_marks(template_of(tokenizer, options or {}))


@functools.lru_cache(maxsize=8)
def _has_marks(template: str) -> bool:
    return bool(_MARKS.search(_COMMENT.sub("", template)))


def render(messages: Sequence[Message], tokenizer: Any, where: str, options: Mapping[str, Any], **how: Any) -> Any:
    """What `apply_chat_template` gives. Raises BadRow, beginning with `where`, for what the template refuses."""
    template_of(tokenizer, options)
    try:
        return tokenizer.apply_chat_template([*messages], **{**options, **how})
    except Exception as error:  # a template may raise any exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRow(
            f"{where}: the chat template refuses it: {reason}; mend the row or the template",
            f"the chat template refuses it: {reason}",
        ) from None


def text_of_chat(
    messages: Sequence[Message], tokenizer: Any, where: str, options: Mapping[str, Any], *, begun: bool = False
) -> str:
    """A conversation as text. begun: with the generation prompt, which begins the assistant's turn."""
    return render(messages, tokenizer, where, options, tokenize=False, add_generation_prompt=begun)


def template_of(tokenizer: Any, options: Mapping[str, Any]) -> str:
    """The text of the chat template. Raises InputError for a tokenizer without one, or with several and no default."""
    if not tokenizer.chat_template:
        raise InputError(NO_TEMPLATE)
    try:
        return tokenizer.get_chat_template(tools=options.get("tools"))
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise InputError(
            f"the tokenizer has chat templates named {names} and none named default; give one of these names by "
            "--chat-template"
        ) from None


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the common beginning of two sequences."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
