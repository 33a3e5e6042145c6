"""The date that chat templates write, fixed for a run."""

import datetime

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from jaxllm.data.chat.templates import fix_date, writes_date

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
DAY = datetime.datetime(2031, 5, 9, 17, 4, 5)
FORMATS = ("%d %b %Y", "%-d. %B, %A at %H:%M:%S", "week %U, day %j")


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DAY


@pytest.mark.parametrize("start", ["", "\n", "  ", "  x", "{% if true %}\n  y{% endif %}\n"])
def test_a_template_is_rendered_as_on_that_day(llama, start, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    body = "".join("{{ strftime_now('" + text + "') }}\n" for text in FORMATS)
    tokenizer.chat_template = start + body + "{% for m in messages %}{{ m.content }}{% endfor %}"
    today = tokenizer.apply_chat_template(CHAT, tokenize=False)
    with monkeypatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Clock)
        wanted = tokenizer.apply_chat_template(CHAT, tokenize=False)
    template = tokenizer.chat_template
    fix_date(tokenizer, DAY)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == wanted != today
    assert "09 May 2031" in wanted
    assert tokenizer.chat_template == template, "the export keeps the template"


def test_a_template_without_a_date_is_left_alone(llama):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert not writes_date(tokenizer.chat_template)
    fix_date(tokenizer, DAY)
    assert "apply_chat_template" not in vars(tokenizer)
