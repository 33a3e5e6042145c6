"""Rows that are tokenised in one call have the tokens of rows that are tokenised alone, and their own errors."""

import numpy as np
import pytest

from jaxllm.data.chat import together as module
from jaxllm.data.chat.encode import encode, encoding
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.chat.templates import give_template
from jaxllm.data.chat.together import Text, alone, gather, together
from jaxllm.data.report import BadRow

REFUSES = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this one') }}{% endif %}"
SHOWS_TOOLS = "{% if tools %}{{ 'the tool ' + tools[0]['function']['name'] }}{% endif %}"
TOOLS = [{"type": "function", "function": {"name": "f", "description": "Adds.", "parameters": {}}}]


def talk(asked, answer, **more):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return Dialogue(messages, **more)


ROWS = [
    talk("What is 1?", "One."),
    Dialogue(prompt="What is", completion=" 2?"),
    talk("no", "It is refused."),
    talk("Which tool?", "f", options={"tools": TOOLS}),
    Dialogue(prompt="", completion=""),
    Dialogue(prompt="", completion="A text of its own."),
    Dialogue([*talk("Why?", "So.").messages, *talk("And?", "A longer answer to it.").messages], last_only=True),
    talk("What is 3?", "Three."),
]


def outcome(result):
    try:
        found = result()
    except BadRow as error:
        return str(error)
    return [x.tolist() for x in found]


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize(("rows", "characters"), [(512, 2**22), (3, 2**22), (512, 40)])
def test_together_as_alone(tokenizer, marks, rows, characters, monkeypatch):
    give_template(tokenizer, "plain")
    plain = tokenizer.chat_template
    if not marks:
        plain = plain.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    tokenizer.chat_template = REFUSES + SHOWS_TOOLS + plain
    wanted = [outcome(lambda row=row, i=i: encode(row, tokenizer, where=f"row {i}")) for i, row in enumerate(ROWS)]
    assert [i for i, one in enumerate(wanted) if isinstance(one, str)] == [2, 4]
    assert "row 2: the chat template refuses it: not this one" in wanted[2]
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_CHARACTERS", characters)
    steps = (encoding(row, tokenizer, where=f"row {i}") for i, row in enumerate(ROWS))
    assert [outcome(result) for result in together(steps, tokenizer)] == wanted
    accepted = [row for i, row in enumerate(ROWS) if i != 2]  # none of which makes the template refuse the others
    steps = (encoding(row, tokenizer, where=f"row {i}") for i, row in enumerate(accepted))
    found = [outcome(result) for result in together(steps, tokenizer)]
    assert found[:3] + found[4:] == [one for i, one in enumerate(wanted) if i not in (2, 4)]


def test_many_rows_are_one_call_of_the_tokenizer(tokenizer, monkeypatch):
    give_template(tokenizer, "plain")
    calls = []
    whole = type(tokenizer).__call__
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *a, **k: calls.append(1) or whole(*a, **k))
    rows = [talk(f"What is {n}?", f"{n}.") for n in range(100)]
    assert len([result() for result in together((encoding(x, tokenizer, where="") for x in rows), tokenizer)]) == 100
    assert len(calls) < 10  # those that find out how turns end, among them


def test_several_conversions_are_one_and_texts_keep_their_begin_token(tokenizer):
    def steps(text):
        (tokens,) = yield [Text(text)]
        return tokens

    def begun(text):
        bare, begun = yield [Text(text), Text(text, bare=False)]
        return bare, begun

    found = alone(gather([steps("one"), begun("two"), steps("three")]), tokenizer)
    alone_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two", "three")]
    assert [found[0], found[1][0], found[2]] == alone_ids
    assert found[1][1] == tokenizer("two")["input_ids"]
    assert np.array_equal(alone(steps("one"), tokenizer), alone_ids[0])
