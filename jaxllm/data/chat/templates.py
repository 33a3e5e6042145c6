"""Chat templates to give to a tokenizer, and the special tokens that training and generation need of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jaxllm.data.chat.encode import turn_end
from jaxllm.types import InputError

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ':' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ ' ' + message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

BUILTIN = {"chatml": _CHATML, "plain": _PLAIN}
"""By name: turns between <|im_start|> and <|im_end|>; and lines that begin with the role, which need no new token."""

_PAD = "<|pad|>"
_PADS = (
    "<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|padding|>", "<|PAD_TOKEN|>", "<|finetune_right_pad_id|>", "<unused0>",
    "<|reserved_special_token_0|>", "<|extra_0|>", "<|endoftext|>",
)  # fmt: skip
"""Tokens that vocabularies have for padding or for nothing yet; the last is Qwen's, whose turns end with another."""


def give_template(tokenizer: Any, name: str) -> list[str]:
    """Gives the tokenizer a chat template: of BUILTIN, or a .jinja file. What there is to say of it, a line each.

    Special tokens that the template writes, such as <|im_start|>, are added where the tokenizer lacks them, and the
    token that ends the assistant's turns becomes EOS. A built-in template begins as the tokenizer begins texts.
    Raises InputError for an unknown name, and for a template that refuses a plain conversation or does not end turns.
    """
    if name in BUILTIN:
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        template = ("{{ bos_token }}" if begins else "") + BUILTIN[name]
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"--chat-template {name}: no such file, and built in are {' and '.join(BUILTIN)}")
        try:
            template = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"--chat-template {name}: not UTF-8; convert the file") from None
    notes = [f"chat template: {name}" + (" instead of the tokenizer's own" if tokenizer.chat_template else "")]
    known = tokenizer.get_vocab()
    if missing := [x for x in dict.fromkeys(re.findall(r"<\|\w+\|>", template)) if x not in known]:
        tokenizer.add_tokens(missing, special_tokens=True)
        notes.append(f"tokens added: {', '.join(missing)}")
    tokenizer.chat_template = template
    end = tokenizer.convert_ids_to_tokens(turn_end(tokenizer))
    if end != tokenizer.eos_token:
        notes.append(f"EOS is now {end}, which ends the assistant's turns; it was {tokenizer.eos_token}")
        tokenizer.eos_token = end
    return notes


def give_pad(tokenizer: Any) -> list[str]:
    """Sees to it that padding is a token of its own: one that the vocabulary has for that, else <|pad|> is added.

    What there is to say of it, a line each. Whoever pads with EOS hides from the loss the EOS that ends an answer.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    if tokenizer.chat_template:
        taken.add(turn_end(tokenizer))
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return []
    known = tokenizer.get_vocab()
    pad = next((token for token in _PADS if token in known and known[token] not in taken), None)
    was = "there was none" if tokenizer.pad_token_id is None else f"{tokenizer.pad_token} has another use"
    notes = [f"padding: {pad or f'{_PAD}, added'} ({was})"]
    tokenizer.add_special_tokens({"pad_token": pad or _PAD})
    return notes


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The tokens at which generation stops: that of the assistant's turns first, then EOS where it is another."""
    turn = (turn_end(tokenizer),) if tokenizer.chat_template else ()
    return tuple(dict.fromkeys((*turn, tokenizer.eos_token_id)))
