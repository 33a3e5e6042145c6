"""Chat templates that write today's date: the date is fixed, so that a run continued on another day has the same rows.

Templates, Llama 3.1's among them, ask for the date by `strftime_now(FORMAT)`, which `transformers` gives them.
"""

from __future__ import annotations

import datetime
from typing import Any

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
