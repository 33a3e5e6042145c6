"""Text that continues prompts: their tokens, and what is generated decoded as it comes, up to an end or a stop text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.data.text.token_cache import Marks
from jaxllm.evals.generate import Sampling, generate
from jaxllm.params import GraphDef
from jaxllm.types import InputError


class _Text:
    """The text of a row, decoded as tokens come: only the last few again, for a character may take several."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
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

    The prompts are one batch. write(row, text, last) is given the text in pieces as it comes, as far as no further
    token can change it. Raises InputError for a prompt that leaves no room in the context.
    """
    rows = [_Text(tokenizer, prompt, stop) for prompt in prompts]

    def on_token(row: int, token: int, last: bool) -> bool:
        piece, last = rows[row].add(token, last)
        if piece or last:
            write(row, piece, last)
        return last

    generate(graphdef, params, prompts, sampling, max_tokens=max_tokens, stop=ends, seed=seed, on_token=on_token)
    return [row.text for row in rows]


def continue_text(
    graphdef: GraphDef, params: Mapping[str, Any], tokenizer: Any, prompt: Sequence[int], sampling: Sampling, **how: Any
) -> str:
    """`continue_texts` of one prompt."""
    return continue_texts(graphdef, params, tokenizer, [prompt], sampling, **how)[0]


def encode(prompt: str, tokenizer: Any, *, chat: bool = False) -> list[int]:
    """The tokens of a prompt, begun as the tokenizer begins texts; of an empty one the begin token alone.

    Raises InputError for a chat with a tokenizer that has no chat template.
    """
    if chat:
        if not tokenizer.chat_template:
            raise InputError("--chat: the tokenizer has no chat template; leave --chat out, or use a chat model")
        messages = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(prompt)["input_ids"] or [Marks.of(tokenizer).begin]


def end_tokens(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those of generation_config.json."""
    found = [tokenizer.eos_token_id]
    path = folder / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        found += more if isinstance(more, list) else [more]
    return tuple(dict.fromkeys(token for token in found if token is not None))
