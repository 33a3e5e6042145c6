"""Rows of every shape, and what is wrong with rows."""

import pytest

from jaxllm.data.chat.rows import Dialogue, dialogue, dialogues, prompt_of
from jaxllm.types import InputError

USER, SAID = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
TURN = [USER, SAID]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": "All of it."}, Dialogue(completion="All of it.")),
        ({"prompt": "Why?", "completion": " So."}, Dialogue(prompt="Why?", completion=" So.")),
        ({"prompt": "", "completion": "So."}, Dialogue(completion="So.")),
        ({"prompt": [USER], "completion": [SAID]}, Dialogue(TURN, last_only=True)),
        ({"question": "Why?", "answer": "Because."}, Dialogue(TURN)),
        ({"query": "Why?", "answer": "Because."}, Dialogue(TURN)),
        ({"messages": TURN, "id": 3}, Dialogue(TURN)),
        ({"instruction": "Why?", "input": "", "output": "Because."}, Dialogue(TURN)),
        ({"instruction": "Why?", "output": "Because.", "text": "### Why?"}, Dialogue(TURN)),
        ({"instruction": "Why?", "input": None, "output": "Because."}, Dialogue(TURN)),
        (
            {"instruction": "Why", "input": "this?", "output": "Because."},
            Dialogue([{"role": "user", "content": "Why\n\nthis?"}, SAID]),
        ),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}, Dialogue(TURN)),
        ({"conversations": TURN}, Dialogue(TURN)),
        (
            {"conversations": [{"from": "system", "value": "Be brief."}, *TURN], "source": "web"},
            Dialogue([{"role": "system", "content": "Be brief."}, *TURN]),
        ),
        ({"messages": TURN, "prompt": "Why?", "prompt_id": "a"}, Dialogue(TURN)),
    ],
)
def test_shapes(row, wanted):
    assert dialogue(row, "row 1") == wanted


def test_what_else_a_message_holds_stays():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}], "name": None}
    found = dialogue({"messages": [USER, call]}, "row 1").messages[1]
    assert found == {"role": "assistant", "content": "", "tool_calls": call["tool_calls"]}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "Why?", "chosen": "a", "rejected": "b"}, "Why?"),
        ({"prompt": [USER], "chosen": [SAID]}, [USER]),
        ({"question": "Why?", "chosen": "a"}, [USER]),
        ({"query": "Why?", "chosen": "a"}, [USER]),
        ({"instruction": "Why?", "input": "", "output": "x", "chosen": "a"}, [USER]),
        ({"instruction": "Why", "input": "this?", "chosen": "a"}, [{"role": "user", "content": "Why\n\nthis?"}]),
    ],
)
def test_the_prompt_alone(row, wanted):
    assert prompt_of(row, "row 1") == wanted


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "Why?"}, "columns are question; wanted one of: messages; conversations; prompt and completion"),
        ({}, "columns are none"),
        ({"text": "  \n"}, "its text is empty"),
        ({"text": None}, "its text is absent, wanted text"),
        ({"text": 3}, "its text is an int, wanted text"),
        ({"question": "Why?", "answer": ""}, "its answer is empty; fill it in or remove the row"),
        ({"question": " ", "answer": "So."}, "its question is empty"),
        ({"prompt": "Why?", "completion": ""}, "its completion is empty"),
        ({"prompt": None, "completion": "So."}, "its prompt is absent"),
        ({"prompt": [USER], "completion": "So."}, "its completion is a str, wanted a list of messages"),
        ({"prompt": [USER], "completion": [USER]}, "one message of the assistant"),
        ({"instruction": "Why?", "input": ["this"], "output": "So."}, "its input is a list"),
        ({"messages": []}, "its messages is empty"),
        ({"messages": "Why?"}, "its messages is a str, wanted a list"),
        ({"messages": ["Why?"]}, "its messages holds a str, wanted messages alone"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "message 2: its content is empty"),
        ({"messages": [USER, {"role": "assistant"}]}, "message 2: its content is absent"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1: its content is a list"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "message 1: its role is 'narrator', known are"),
        ({"conversations": [{"value": "x"}]}, "message 1: its role is None"),
    ],
)
def test_what_is_wrong_is_said_with_the_row(row, fault):
    with pytest.raises(InputError) as error:
        dialogue(row, "data.jsonl, line 4")
    assert str(error.value).startswith("data.jsonl, line 4")
    assert fault in str(error.value)


def test_a_prompt_that_is_not_there():
    with pytest.raises(InputError, match="row 2: it has no prompt, question, query or instruction"):
        prompt_of({"chosen": "a", "rejected": "b"}, "row 2")


def test_all_bad_rows_are_named_in_one_line():
    rows = [{"question": "Why?", "answer": "" if i % 2 else "So."} for i in range(40)]
    with pytest.raises(InputError) as error:
        dialogues(rows, where=lambda i: f"data.jsonl, line {i + 1}")
    text = str(error.value)
    assert text.startswith(
        "data.jsonl, line 2: its answer is empty; fill it in or remove the row ... and 19 more: line 4"
    )
    assert text.endswith("line 18, ...")
    assert "\n" not in text
    with pytest.raises(InputError, match=r"remove the row$"):
        dialogues(rows[:2], where=lambda i: f"row {i + 1}")
    assert dialogues(rows[:1], where=str) == [Dialogue([USER, {"role": "assistant", "content": "So."}])]
