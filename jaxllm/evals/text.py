"""Text that continues prompts: their tokens, and what is generated decoded as it comes, up to an end or a stop text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.data.chat.encode import prompt_of_text, prompt_tokens
from jaxllm.data.text.token_cache import Marks
from jaxllm.evals.generate import Sampling, generate
from jaxllm.params import GraphDef
from jaxllm.types import InputError


class _Text:
    """The text of a row, decoded as tokens come: only the last few again, for a character may take several."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, stop
        self._held = max(map(len, self._stop), default=1) - 1  # of what may be the beginning of a stop text
        self._ids, self._from, self._read = list(prompt[-8:]), 0, len(prompt[-8:])
        self._shown = 0
        self.text = ""

    def add(self, token: int, last: bool) -> tuple[str, bool]:
        """(what no further token can change and was not told before, whether the row ends)."""
        self._ids.append(token)
        known, now = (self._decode(self._ids[self._from : stop]) for stop in (self._read, None))
        if last or not now.endswith("\ufffd"):
            self.text += now[len(known) :]
            self._from, self._read = self._read, len(self._ids)
        if found := [at for at in map(self.text.find, self._stop) if at >= 0]:
            self.text, last = self.text[: min(found)], True
        until = max(self._shown, len(self.text) if last else len(self.text) - self._held)
        piece, self._shown = self.text[self._shown : until], until
        return piece, last

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def continue_texts(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_tokens: int = 128,
    ends: Sequence[int] = (),
    stop: Sequence[str] = (),
    seed: int = 0,
    write: Callable[[int, str, bool], None] = lambda row, text, last: None,
) -> list[str]:
    """The text that follows each prompt of token ids: up to an end token or a stop text, which are not part of it.

    The prompts are one batch. A stop text may be the name of a special token. write(row, text, last) is given the text
    in pieces as it comes, as far as no further token can change it. Raises InputError for a prompt that leaves no room
    in the context, and for a stop text with a special token inside.
    """
    stop, more = _parted(stop, tokenizer)
    ends = [*ends, *more]
    rows = [_Text(tokenizer, prompt, stop) for prompt in prompts]

    def on_token(row: int, token: int, last: bool) -> bool:
        piece, last = rows[row].add(token, last)
        if piece or last:
            write(row, piece, last)
        return last

    generate(graphdef, params, prompts, sampling, max_tokens=max_tokens, stop=ends, seed=seed, on_token=on_token)
    return [row.text for row in rows]


def encode(prompt: str, tokenizer: Any, *, chat: bool = False) -> list[int]:
    """The tokens of a prompt as training has them; of an empty one the begin token alone.

    Raises InputError for a chat with a tokenizer that has no chat template, or one that refuses a user's message.
    """
    if chat:
        if not tokenizer.chat_template:
            raise InputError("--chat: the tokenizer has no chat template; leave --chat out, or use a chat model")
        return prompt_tokens([{"role": "user", "content": prompt}], tokenizer)
    return prompt_of_text(prompt, tokenizer) or [Marks.of(tokenizer).begin]


def _parted(stop: Sequence[str], tokenizer: Any) -> tuple[list[str], list[int]]:
    """Stop texts that can be found in decoded text, and the ids of those that are a special token, which is left out.

    Raises InputError for a text with a special token and more.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token.content: i for i, token in added.items() if token.special}
    for text in stop:
        if text not in special and (inside := [name for name in special if name in text]):
            raise InputError(
                f"the stop text {text!r} has the special token {inside[0]} and more; give {inside[0]} alone"
            )
    return [text for text in stop if text and text not in special], [special[text] for text in stop if text in special]
