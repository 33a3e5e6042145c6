"""Pairs made of dialogues."""

from jaxllm.data.builtin import preferences
from jaxllm.data.chat.rows import Dialogue


def asked(question, answer):
    return Dialogue([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def test_every_answer_is_rejected_once_and_never_for_its_own_question():
    dialogues = [asked(f"What is {i}?", f"It is {i}.") for i in range(9)]
    rows = [*preferences.pairs(dialogues)]
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": f"What is {i}?"}] for i in range(9)]
    assert [row["chosen"] for row in rows] == [[one.messages[-1]] for one in dialogues]
    assert all(row["chosen"] != row["rejected"] for row in rows)
    key = lambda row: row[0]["content"]
    assert sorted((row["rejected"] for row in rows), key=key) == sorted((row["chosen"] for row in rows), key=key)
    assert rows == [*preferences.pairs(dialogues)]


def test_what_makes_no_pair():
    text = [Dialogue(prompt="1 and 1", completion=" 2"), Dialogue(prompt="2 and 2", completion=" 4")]
    assert [*preferences.pairs([*text, Dialogue(completion="A text alone.")])] == [
        {"prompt": "1 and 1", "chosen": " 2", "rejected": " 4"},
        {"prompt": "2 and 2", "chosen": " 4", "rejected": " 2"},
    ]
    assert not [*preferences.pairs(text[:1])]
    assert not [*preferences.pairs([])]
    assert not [*preferences.pairs([asked("Is it?", "Yes."), asked("Was it?", "Yes.")])]
    assert not [*preferences.pairs([text[0], asked("Is it?", "Yes.")])]
