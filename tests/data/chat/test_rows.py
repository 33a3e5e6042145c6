"""Rows of every shape, and what is wrong with rows."""

import pytest

from jaxllm.data import sources
from jaxllm.data.chat.columns import ColumnsRead, parse_columns
from jaxllm.data.chat.rows import Dialogue, dialogue, dialogues, prompt_of
from jaxllm.data.report import BadRow, Report
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
        (
            {"question": "Why?"},
            "columns are question: question (Why?); wanted one of: messages; conversations; conversation; prompt and",
        ),
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
        ({"messages": [{"role": "user", "content": ""}, SAID]}, "message 1: its content is empty"),
        ({"instruction": "Why?", "input": "", "output": None}, "its output is absent"),
        (
            {"Question": "Why?", " Answer": "So."},
            "its columns are Question,  Answer: Question (Why?);  Answer (So.); wa",
        ),
        ({"prompt": [USER], "completion": [SAID, USER, SAID]}, "one message of the assistant"),
        ({"messages": '[{"role": "user", "content": "Why?"}]'}, "its messages is a str, wanted a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1: its content has a part that is no text (image)",
        ),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "message 1: its role is 'narrator', known are"),
        ({"messages": [{"role": "developer", "content": "x"}, *TURN]}, "message 1: its role is 'developer', known are"),
        (
            {"messages": [{"role": "User", "content": "x"}, SAID]},
            "message 1: its role is 'User', known are human, user",
        ),
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


def test_all_rows_of_the_wrong_structure_are_named_in_one_line():
    rows = [{"question": "Why?", "answer": 3 if i % 2 else "So."} for i in range(40)]
    with pytest.raises(InputError) as error:
        dialogues(rows, where=lambda i: f"data.jsonl, line {i + 1}", report=Report(max_bad_rows=1))
    text = str(error.value)
    assert text.startswith(
        "data.jsonl, line 2: its answer is an int, wanted text; mend the row ... and 19 more: line 4"
    )
    assert text.endswith("line 18, ...")
    assert "\n" not in text
    with pytest.raises(InputError, match=r"mend the row$"):
        dialogues(rows[:2], where=lambda i: f"row {i + 1}", report=Report())
    wanted = [Dialogue([USER, {"role": "assistant", "content": "So."}])]
    assert dialogues(rows[:1], where=str, report=Report()) == (wanted, ["0"])


BRIEF = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "content": "{}"}
SUN = {"role": "tool", "content": "sun"}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"instruction": "Why", "context": "this?", "response": "Because.", "category": "qa"}, [
            {"role": "user", "content": "Why\n\nthis?"}, SAID]),
        ({"instruction": "Why?", "context": "", "response": "Because."}, TURN),
        ({"conversations": ["Why?", "Because.", "Why?", "Because."], "source": "x"}, TURN * 2),
        ({"conversation": TURN}, TURN),
        ({"messages": [{"role": "prompter", "content": "Why?"}, SAID]}, TURN),
        ({"system": "Be brief.", "question": "Why?", "response": "Because."}, [BRIEF, *TURN]),
        ({"system_prompt": "Be brief.", "question": "Why?", "response": "Because."}, [BRIEF, *TURN]),
        ({"system_prompt": "", "question": "Why?", "response": "Because."}, TURN),
        ({"query": "Why?", "response": "Because."}, TURN),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
                       SAID]}, TURN),
        ({"messages": [{"role": "system", "content": None}, *TURN]}, TURN),
        ({"messages": [{"role": "system", "content": ""}, *TURN]}, TURN),
        ({"system": "Be brief.", "tools": "[]",
          "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}, [BRIEF, *TURN]),
        ({"system": "Be long.", "messages": [BRIEF, *TURN]}, [BRIEF, *TURN]),
        ({"system": None, "messages": TURN}, TURN),
        ({"system": "Be brief.", "history": [["Why?", "Because."]], "instruction": "Why?", "output": "Because."},
         [BRIEF, *TURN, *TURN]),
        ({"history": TURN, "question": "Why?", "answer": "Because."}, TURN * 2),
        ({"history": [], "question": "Why?", "answer": "Because."}, TURN),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "function_call", "value": "{}"},
                            {"from": "observation", "value": "sun"}, {"from": "gpt", "value": "Because."}]},
         [USER, CALL, SUN, SAID]),
        ({"messages": [USER, CALL, {"role": "tool", "content": "sun"}, SAID]}, [USER, CALL, SUN, SAID]),
    ],
)  # fmt: skip
def test_shapes_of_published_sets(row, wanted):
    assert dialogue(row, "row 1") == Dialogue(wanted)


def test_columns_for_the_chat_template_are_values_or_their_json():
    tools = [{"type": "function", "function": {"name": "add"}}]
    wanted = Dialogue(TURN, options={"tools": tools, "enable_thinking": False})
    row = {"messages": TURN, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}, "documents": None}
    assert dialogue(row, "row 1") == wanted
    assert dialogue({**row, "tools": '[{"type": "function", "function": {"name": "add"}}]'}, "row 1") == wanted
    with pytest.raises(BadRow, match="its tools is text and not JSON"):
        dialogue({**row, "tools": "[add"}, "row 1")
    with pytest.raises(InputError, match="its tools is a dict, wanted a list"):
        dialogue({**row, "tools": {"name": "add"}}, "row 1")


def test_columns_can_be_named():
    named = ColumnsRead(parse_columns("prompt=question, completion=text"))
    row = {"question": "Why?", "text": "So.", "answer": "x", "messages": TURN}
    assert dialogue(row, "row 1", named) == Dialogue(prompt="Why?", completion="So.")
    assert dialogue({"q": "Why?", "a": "Because."}, "row 1", ColumnsRead(parse_columns("question=q,answer=a"))) == (
        Dialogue(TURN)
    )
    with pytest.raises(InputError, match="row 3: --columns names text, and its columns are question"):
        dialogue({"question": "Why?"}, "row 3", named)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("prompt", "--columns prompt: give NAME=COLUMN"),
        ("ask=text", "--columns ask=...: columns can be named messages,"),
    ],
)
def test_columns_that_cannot_be_named(text, fault):
    with pytest.raises(InputError, match=fault):
        parse_columns(text)


def test_unknown_columns_are_shown_with_how_to_name_them():
    with pytest.raises(InputError) as error:
        dialogue({"ask": "Why?", "say": "b" * 70}, "row 1")
    text = str(error.value)
    assert "row 1: its columns are ask, say: ask (Why?); say (" + "b" * 60 + "...); wanted one of" in text
    assert text.endswith("or name them, as in --columns prompt=question,completion=text")


@pytest.mark.parametrize("name", ["train", "training", "loss"])
def test_what_other_trainers_call_the_weight_of_a_message(name):
    messages = [USER, {**SAID, name: False}, USER, {**SAID, name: True}]
    found = dialogue({"messages": messages}, "row 1").messages
    assert found == [USER, {**SAID, "weight": 0}, USER, {**SAID, "weight": 1}]
    other = [{**USER, name: False}, {**SAID, name: 0.5}]  # of another meaning, and passed to the template
    assert dialogue({"messages": other}, "row 1").messages == other


def test_a_function_call_is_a_tool_call():
    call = {"name": "look", "arguments": "{}"}
    row = {"messages": [USER, {"role": "assistant", "content": None, "function_call": call},
                        {"role": "function", "name": "look", "content": "sun"}, SAID]}  # fmt: skip
    tool_calls = [{"type": "function", "function": call}]
    assert dialogue(row, "row 1").messages == [
        USER, {"role": "assistant", "content": "", "tool_calls": tool_calls},
        {"role": "tool", "content": "sun", "name": "look"}, SAID,
    ]  # fmt: skip


def test_columns_that_are_not_read_and_shapes_are_reported():
    report = Report()
    rows = [{"instruction": "Why?", "output": "So.", "input": "", "id": 3, "source": "web"}, {"text": "So.", "id": 4}]
    dialogues(rows, where=str, report=report)
    assert list(report.unread) == ["id", "source"]
    assert report.shapes == {"instruction and output": 1, "text": 1}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "a \ud83d b"}, "a lone surrogate in text"),
        ({"messages": [{"role": "user", "content": "a \ud83d"}, SAID]}, "a lone surrogate in content"),
        ({"messages": [USER, {**SAID, "tool_calls": [{"name": "\ud83d"}]}]}, "a lone surrogate in message"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "content is absent"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "content is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "text": None}]}, SAID]},
         "content with a part that is no text (image)"),
        ({"question": None, "answer": "So."}, "question is absent"),
        ({"question": "Why?", "answer": ""}, "answer is empty"),
        ({"messages": None}, "messages is absent"),
    ],
)  # fmt: skip
def test_rows_bad_in_content_have_a_kind(row, kind):
    with pytest.raises(BadRow) as error:
        dialogue(row, "row 1")
    assert error.value.kind == kind


def test_bad_rows_are_left_out_and_counted_up_to_a_share():
    rows = [{"question": "Why?", "answer": "" if i == 3 else "So."} for i in range(20)]
    report = Report()
    found, locations = dialogues(rows, where=lambda i: f"a.jsonl, line {i + 1}", report=report)
    assert (len(found), len(locations), report.kept, report.total) == (19, 19, 19, 20)
    assert report.lines() == ["1 left out, answer is empty: a.jsonl, line 4"]


def test_a_weight_of_a_message_is_0_or_1():
    kept = [USER, {**SAID, "weight": 0}]
    assert dialogue({"messages": kept}, "row 1").messages == kept
    with pytest.raises(InputError, match=r"message 2: its weight is 0\.5, wanted 0 or 1"):
        dialogue({"messages": [USER, {**SAID, "weight": 0.5}]}, "row 1")


def test_the_rows_of_the_cases(assets):
    """What each of these sets is made of is learnt, and nothing else."""
    folder = assets / "cases" / "row_shapes"
    wanted = {"dolly": 2, "lima": 2, "oasst": 2, "orca": 3, "openai_content": 2, "null_system": 2, "tool_calls": 4}
    for name, turns in wanted.items():
        rows = sources.load(folder / f"{name}.jsonl")["train"]
        found, _ = dialogues(rows, report=Report())
        assert [len(one.messages) for one in found] == [turns] * 3, name


BRIEFLY = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("messages", "prompt", "agrees"),
    [
        (TURN, "Why?", True),
        (TURN, " Why? \n", True),
        (TURN, "<|user|>\nWhy?\n<|assistant|>\n", True),
        ([BRIEFLY, *TURN], "Be brief.", True),
        ([{"role": "user", "content": "Read this.\n\nWhy?"}, SAID], "Why?", True),
        ([BRIEFLY, *TURN, {"role": "user", "content": "And?"}, SAID], "And?", True),
        (TURN, [USER], True),
        ([BRIEFLY, *TURN], [USER], True),
        (TURN, [{"from": "human", "value": "Why?"}], True),
        (TURN, "", True),
        (TURN, None, True),
        ([SAID], "Why?", True),
        (TURN, "When?", False),
        (TURN, "Because.", False),
        (TURN, [{"role": "user", "content": "When?"}], False),
        (TURN, [*TURN, USER], False),
    ],
)
def test_a_prompt_beside_a_conversation_is_its_beginning(messages, prompt, agrees):
    row = {"messages": messages, "prompt": prompt}
    if agrees:
        assert dialogue(row, "row 1").messages == messages
        return
    with pytest.raises(BadRow) as error:
        dialogue(row, "row 1")
    assert error.value.kind == "prompt and messages contradict each other"
    assert str(error.value) == (
        "row 1: its prompt is not what its messages begins with; mend the row, or give --columns messages=messages to "
        "read no prompt"
    )
    named = ColumnsRead(parse_columns("messages=messages"))  # the remedy
    assert dialogue(row, "row 1", named).messages == messages


def test_a_prompt_that_agrees_is_silent_and_one_that_is_not_compared_is_named():
    rows = {"agrees": "Why?", "of another type": 3, "of other objects": [3]}
    for kind, prompt in rows.items():
        report = Report()
        dialogues([{"conversations": TURN, "prompt": prompt}], where=str, report=report)
        assert (report.lines(), list(report.unread)) == ([], [] if kind == "agrees" else ["prompt"])


def test_a_completion_that_repeats_its_prompt_is_said():
    report = Report()
    dialogues([{"prompt": "Why?", "completion": x} for x in ("Why? So.", " So.")], where=str, report=report)
    (line,) = report.lines()
    assert line.startswith("warning: in 1 rows the answers begin with the prompt")


def test_prompts_that_contradict_are_counted_as_other_bad_rows_are():
    rows = [{"messages": TURN, "prompt": "When?" if i == 3 else "Why?"} for i in range(20)]
    report = Report()
    dialogues(rows, where=lambda i: f"a.jsonl, line {i + 1}", report=report)
    assert report.lines() == ["1 left out, prompt and messages contradict each other: a.jsonl, line 4"]
