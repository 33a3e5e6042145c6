"""Giving a tokenizer a chat template, a date for it, and the padding and end tokens that training and generation need.

Templates, Llama 3.1's among them, ask for today's date by `strftime_now(FORMAT)`, which `transformers` gives them. The
date is fixed, so that a run continued on another day has the same rows.
"""

from __future__ import annotations

import datetime
import re
from importlib import resources
from pathlib import Path
from typing import Any

from jaxllm.data.chat.render import turn_end
from jaxllm.types import InputError


def _read(name: str) -> str:
    """A built-in chat template: the lines of its file joined, for in a chat template white space is text."""
    lines = resources.files(__package__).joinpath(f"{name}.jinja").read_text(encoding="utf-8").splitlines()
    return "".join(line.strip() for line in lines)


BUILTIN = {name: _read(name) for name in ("chatml", "plain")}
"""Chat templates by name: chatml sets turns between <|im_start|> and <|im_end|>, and plain begins lines with the role,
for which a tokenizer needs no new token."""

_PAD = "<|pad|>"
_PADS = (
    "<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|padding|>", "<|PAD_TOKEN|>", "<|finetune_right_pad_id|>", "<unused0>",
    "<|reserved_special_token_0|>", "<|extra_0|>", "<|endoftext|>",
)  # fmt: skip
"""Padding tokens and unused tokens of common vocabularies; the last is for Qwen, whose turns end with another token."""


def give_template(tokenizer: Any, name: str) -> list[str]:
    """Gives the tokenizer a chat template: of BUILTIN, of its own by name, or a .jinja file. Returns notes to print.

    Special tokens of the template that the tokenizer lacks (<|im_start|>) are added, and the token that ends the
    assistant's turns becomes EOS. A built-in template begins with the tokenizer's begin token, if it has one. Raises
    InputError for an unknown name, and for a template that refuses a plain conversation or does not end turns.
    """
    if name in BUILTIN:
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        template = ("{{ bos_token }}" if begins else "") + BUILTIN[name]
    elif isinstance(tokenizer.chat_template, dict) and name in tokenizer.chat_template:
        template = tokenizer.chat_template[name]
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"--chat-template {name}: no such file, and built in are {' and '.join(BUILTIN)}")
        try:
            template = path.read_text(encoding="utf-8-sig")  # Windows' editors put a byte order mark first
        except UnicodeDecodeError:
            raise InputError(f"--chat-template {name}: not UTF-8; convert the file") from None
    notes = [f"chat template: {name}" + (" instead of the tokenizer's own" if tokenizer.chat_template else "")]
    known = tokenizer.get_vocab()
    if missing := [x for x in dict.fromkeys(re.findall(r"<\|\w+\|>", template)) if x not in known]:
        tokenizer.add_tokens(missing, special_tokens=True)
        notes.append(f"tokens added: {', '.join(missing)}")
    tokenizer.chat_template = template
    try:
        end = tokenizer.convert_ids_to_tokens(turn_end(tokenizer))
    except InputError as error:
        raise InputError(f"--chat-template {name}: {error}") from None
    if end != tokenizer.eos_token:
        notes.append(f"EOS is now {end}, which ends the assistant's turns; it was {tokenizer.eos_token}")
        tokenizer.eos_token = end
    return notes


def give_pad(tokenizer: Any) -> list[str]:
    """Makes padding a separate token: one of the vocabulary's if possible, otherwise a new <|pad|>. Returns notes.

    With EOS as padding, the loss would ignore the EOS that ends an answer.
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


_DIRECTIVES = [f"%{flag}{letter}" for flag in ("", "-") for letter in "aAbBcdHIjmMpSuUwWxXyYfVGDFTRe"]


def writes_date(template: str | None) -> bool:
    """Whether a chat template asks for the date."""
    return "strftime_now" in str(template or "")


def fix_date(tokenizer: Any, now: datetime.datetime) -> None:
    """From now on the tokenizer's chat template is rendered as if it were `now`; the template itself stays as it is.

    Changes only a tokenizer whose template asks for the date.
    """
    if not writes_date(tokenizer.chat_template):
        return
    render, before = tokenizer.apply_chat_template, _macro(now)

    def apply_chat_template(conversation: Any, *, chat_template: str | None = None, **options: Any) -> Any:
        template = tokenizer.get_chat_template(chat_template, tools=options.get("tools"))
        return render(conversation, chat_template=before + template, **options)

    tokenizer.apply_chat_template = apply_chat_template


def _macro(now: datetime.datetime) -> str:
    """A Jinja macro `strftime_now`, which hides the function of that name.

    It replaces the directives of a format one by one. The line break after it is not printed, since `transformers`
    removes the one after a block.
    """
    filters = "".join(f" | replace({code!r}, {now.strftime(code)!r})" for code in _DIRECTIVES)
    return "{%- macro strftime_now(format) -%}{{ format" + filters + " }}{%- endmacro %}\n"
