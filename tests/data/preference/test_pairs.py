"""Rows that compare answers: what is recognised, what is refused by row, what is left out and counted, what is cut."""

import copy

import numpy as np
import pytest
from data_rows import groups_of, rows_of

from jaxllm.data import sources, tokenizers
from jaxllm.data.chat.columns import parse_columns
from jaxllm.data.preference.pairs import comparison, comparisons, is_compared
from jaxllm.data.report import BadRow, Report
from jaxllm.types import InputError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    found = tokenizers.bpe(["what is it now and then, a cat or a dog"] * 3, 300)
    found.chat_template = TEMPLATE
    return found


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def texts(group, tokenizer):
    """The prompt, and of each answer all of it and the part that is trained on."""
    decode = tokenizer.decode
    return decode(group.prompt), [(decode(a.tokens), decode(a.tokens[a.trained])) for a in group.answers]


END = tokenizers.END

PLAIN = ("What is it?", " a cat", " a dog")
TALK = ([user("What is it?")], [said("a cat")], [said("a dog")])
SHAPES = {
    "standard": ({"prompt": PLAIN[0], "chosen": PLAIN[1], "rejected": PLAIN[2]}, PLAIN),
    "conversational": ({"prompt": TALK[0], "chosen": TALK[1], "rejected": TALK[2]}, TALK),
    "conversational that repeats its prompt": (
        {"prompt": "What is it?", "chosen": TALK[0] + TALK[1], "rejected": TALK[0] + TALK[2]},
        TALK,
    ),
    "text prompt, messages as answers": ({"prompt": "What is it?", "chosen": TALK[1], "rejected": TALK[2]}, TALK),
    "implicit messages": ({"chosen": TALK[0] + TALK[1], "rejected": TALK[0] + TALK[2]}, TALK),
    "implicit text": ({"chosen": "Q: it? A: a cat", "rejected": "Q: it? A: a car"}, ("Q: it? A: a", " cat", " car")),
    "implicit text after a line end": ({"chosen": "Q: it?\nyes", "rejected": "Q: it?\nno"}, ("Q: it?\n", "yes", "no")),
    "Alpaca": (
        {"instruction": "Name it.", "input": "meow", "output": "x", "chosen": "a cat", "rejected": "a dog"},
        ([user("Name it.\n\nmeow")], TALK[1], TALK[2]),
    ),
    "question": ({"question": "What is it?", "chosen": "a cat", "rejected": "a dog"}, TALK),
    "system column": (
        {"system": "Be brief.", "question": "What is it?", "chosen": "a cat", "rejected": "a dog"},
        ([{"role": "system", "content": "Be brief."}, *TALK[0]], *TALK[1:]),
    ),
    "system column before messages": (
        {"system": "Be brief.", "prompt": TALK[0], "chosen": TALK[1], "rejected": TALK[2]},
        ([{"role": "system", "content": "Be brief."}, *TALK[0]], *TALK[1:]),
    ),
    "input": ({"input": "What is it?", "chosen": "a cat", "rejected": "a dog"}, TALK),
    "lone messages after conversations": (
        {
            "conversations": [{"from": "human", "value": "What is it?"}],
            "chosen": {"from": "gpt", "value": "a cat"},
            "rejected": {"from": "gpt", "value": "a dog"},
        },
        TALK,
    ),
    "transcript with marked turns": (
        {"chosen": "\n\nHuman: It?\n\nAssistant: A cat.", "rejected": "\n\nHuman: It?\n\nAssistant: A dog."},
        ("\n\nHuman: It?\n\nAssistant:", " A cat.", " A dog."),
    ),
    "conversations that part before the last turn": (
        {
            "chosen": [user("Hi"), said("Hello"), user("It?"), said("a cat")],
            "rejected": [user("Hi"), said("Oh"), user("What?"), said("a dog")],
        },
        ([user("Hi")], [said("Hello"), user("It?"), said("a cat")], [said("Oh"), user("What?"), said("a dog")]),
    ),
    "ShareGPT": (
        {
            "chosen": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}],
            "rejected": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a dog"}],
        },
        TALK,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_recognised(shape):
    row, (prompt, chosen, rejected) = SHAPES[shape]
    found = comparison(row, "here")
    assert (found.prompt, found.answers) == (prompt, (chosen, rejected))
    assert (found.sides, found.weight, found.margin) == ((1, -1), 1.0, 0.0)


def test_unpaired_rows_have_one_answer_of_either_side():
    good = comparison({"prompt": "Why?", "completion": "so", "label": True}, "here")
    bad = comparison({"prompt": [user("Why?")], "completion": [said("so")], "label": 0}, "here")
    whole = comparison({"completion": [user("Why?"), said("so")], "label": 1}, "here")
    assert (good.prompt, good.answers, good.sides) == ("Why?", ("so",), (1,))
    assert (bad.prompt, bad.answers, bad.sides) == ([user("Why?")], ([said("so")],), (-1,))
    assert (whole.prompt, whole.answers) == (bad.prompt, bad.answers)


def test_a_prompt_beside_answers_that_repeat_it_has_to_be_theirs():
    whole = {"chosen": TALK[0] + TALK[1], "rejected": TALK[0] + TALK[2]}
    judged = {"completion": TALK[0] + TALK[1], "label": True}
    for row, column in ((whole, "chosen"), (judged, "completion")):
        for prompt in ("What is it?", TALK[0], ""):
            assert comparison({**row, "prompt": prompt}, "here").prompt == TALK[0]
        for prompt in ("Who is it?", [user("Who is it?")]):
            with pytest.raises(BadRow, match=f"here: its prompt is not what its {column} begins with; mend the row"):
                comparison({**row, "prompt": prompt}, "here")
    bad = rows_of({**whole, "prompt": "Who is it?"})
    with pytest.raises(InputError, match=r"1 prompt and chosen contradict each other: train\.jsonl, line 1"):
        comparisons(bad)
    (one,), _, report = comparisons(bad, columns={"chosen": "chosen"})  # the remedy: the answers are believed alone
    assert (one.prompt, list(report.unread)) == (TALK[0], ["prompt"])


def test_answers_of_text_that_repeat_their_prompt_are_said(tokenizer):
    row = {"prompt": "Q: it?", "chosen": "Q: it? A cat", "rejected": "Q: it? A dog"}
    said = "the answers begin with the prompt, which stands before them once more; leave it out of the answers"
    _, report = groups_of(tokenizer, row, {**row, "rejected": "A dog"})
    assert report.lines() == [f"warning: in 1 rows {said}"]
    _, report = groups_of(tokenizer, {**row, "prompt": TALK[0]})
    assert report.lines() == []


def test_weight_and_margin_come_from_columns(tokenizer):
    row = {**SHAPES["standard"][0], "weight": 2, "margin": 0.5}
    (group,), _ = groups_of(tokenizer, row)
    assert (group.weight, group.margin) == (2.0, 0.5)


def test_text_becomes_prompt_and_answers_that_end(tokenizer):
    (group,), _ = groups_of(tokenizer, SHAPES["standard"][0])
    prompt, answers = texts(group, tokenizer)
    assert prompt == END + "What is it?"
    assert answers == [(x := " a cat" + END, x), (x := " a dog" + END, x)]


def test_messages_train_the_answer_and_its_end_and_not_the_turns_before(tokenizer):
    before = [user("Hi"), said("Hello"), user("What is it?")]
    (group,), _ = groups_of(tokenizer, {"prompt": before, "chosen": "a cat", "rejected": "a dog"})
    prompt, answers = texts(group, tokenizer)
    assert prompt == f"<user>Hi\n<assistant>Hello{END}\n<user>What is it?\n<assistant>"
    assert answers == [(f"a cat{END}\n", f"a cat{END}"), (f"a dog{END}\n", f"a dog{END}")]


def test_an_answer_of_several_turns_trains_each_of_the_assistants(tokenizer):
    more = [said("a cat"), user("Sure?"), said("yes")]
    (group,), _ = groups_of(tokenizer, {"prompt": [user("It?")], "chosen": more, "rejected": [said("a dog")]})
    _, answers = texts(group, tokenizer)
    assert answers[0][1] == f"a cat{END}yes{END}"


def test_what_two_answers_begin_with_alike_still_belongs_to_each(tokenizer):
    (group,), _ = groups_of(tokenizer, {"prompt": "It?", "chosen": " a cat", "rejected": " a cat or a dog"})
    _, answers = texts(group, tokenizer)
    assert [whole for whole, _ in answers] == [" a cat" + END, " a cat or a dog" + END]


def test_a_token_over_the_boundary_shortens_the_prompt_and_is_trained_on(tokenizer):
    (group,), _ = groups_of(tokenizer, {"prompt": "what is a c", "chosen": "at", "rejected": "ow"})
    prompt, answers = texts(group, tokenizer)
    assert [prompt + whole for whole, _ in answers] == [END + "what is a cat" + END, END + "what is a cow" + END]
    assert all(trained.endswith(end + END) for (_, trained), end in zip(answers, ("at", "ow"), strict=True))


def test_rows_without_a_choice_are_left_out_and_counted_by_row(tokenizer):
    good = SHAPES["standard"][0]
    rows = [good, {**good, "rejected": good["chosen"]}, {**good, "chosen": " "}, good, {**good, "rejected": " a cat"}]
    found, report = groups_of(tokenizer, *rows, max_bad_rows=0.6)
    assert len(found) == report.kept == 2
    assert report.lines() == [
        "2 left out, chosen equals rejected: train.jsonl, line 2, line 5",
        "1 left out, chosen is empty: train.jsonl, line 3",
    ]


def test_what_is_over_the_length_is_cut_and_counted(tokenizer):
    row = {"prompt": "what is it now", "chosen": " a cat or a dog now and then", "rejected": " a dog"}
    (whole,), report = groups_of(tokenizer, row)
    n, m = len(whole.prompt), len(whole.answers[0].tokens)
    assert not report.lines()
    (cut,), report = groups_of(tokenizer, row, max_length=n + m - 3)
    assert len(cut.prompt) == n
    assert np.array_equal(cut.answers[0].tokens, whole.answers[0].tokens[:-3])
    assert np.array_equal(cut.answers[1].tokens, whole.answers[1].tokens)
    assert report.cut == {"chosen answers": 1}
    (cut,), report = groups_of(tokenizer, row, max_length=n + m - 3, cut="prompt")
    assert np.array_equal(cut.prompt, whole.prompt[3:])
    assert np.array_equal(cut.answers[0].tokens, whole.answers[0].tokens)
    assert report.cut == {"prompts": 1}
    (cut,), report = groups_of(tokenizer, row, max_length=4, cut="prompt")
    assert np.array_equal(cut.prompt, whole.prompt[-1:])
    assert report.cut == {"prompts": 1, "chosen answers": 1}


def test_a_prompt_that_fills_the_length_is_left_out_by_row(tokenizer):
    long = {"prompt": "what is it now and then " * 9, "chosen": " a cat", "rejected": " a dog"}
    found, report = groups_of(tokenizer, SHAPES["standard"][0], long, max_length=20)
    assert len(found) == 1
    assert report.dropped == {"the prompt fills --max-length 20": ["train.jsonl, line 2"]}
    same = {"prompt": "it", "chosen": " a" * 30 + " cat", "rejected": " a" * 30 + " dog"}
    _, report = groups_of(tokenizer, SHAPES["standard"][0], same, max_length=20)
    assert report.dropped == {"chosen equals rejected in the first 20 tokens": ["train.jsonl, line 2"]}


def asked(*prompt):
    return {"prompt": list(prompt), "chosen": "c", "rejected": "d"}


GOOD = SHAPES["standard"][0]
BAD = {
    "missing column": ([GOOD, {"prompt": "a", "chosen": "b"}], "line 2: it has no rejected"),
    "columns of another kind": ([{"text": "a"}], "completion and no label, its columns are text: text (a)"),
    "no prompt": ([{"chosen": "yes", "rejected": "no"}], "line 1: chosen and rejected have no beginning in common"),
    "paired in part": ([GOOD, {"prompt": "a", "completion": "b", "label": True}], "line 2: some rows have chosen"),
    "label": ([{"prompt": "a", "completion": "b", "label": "yes"}], "line 1: its label is 'yes'"),
    "weight": ([{**GOOD, "weight": 0}], "line 1: its weight is 0"),
    "no number for a weight": ([{**GOOD, "weight": float("nan")}], "line 1: its weight is nan, wanted a finite"),
    "margin": ([{**GOOD, "margin": "much"}], "line 1: its margin is 'much'"),
    "number for text": ([{**GOOD, "chosen": 3}], "line 1: its chosen is 3"),
    "text and messages": ([{**GOOD, "chosen": [said("a")]}], "line 1: chosen is text and rejected messages"),
    "roles": (
        [GOOD, asked(user("a"), user("b")), GOOD, asked(said("a"))],
        "line 2: roles out of order (user, user, assistant): wanted assistant, found user; mend the row (2 of 4 rows "
        "are bad, above --max-bad-rows 0.05: 2 roles out of order: train.jsonl, line 2, line 4)",
    ),
    "nothing left": ([{**GOOD, "chosen": ""}], "1 of 1 rows are bad, above --max-bad-rows 0.05: 1 chosen is"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_in_one_line(case, tokenizer):
    rows, message = BAD[case]
    with pytest.raises(InputError) as error:
        groups_of(tokenizer, *rows)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_list_of_rows_is_shortened():
    report = Report()
    for i in range(1000):
        report.drop("chosen is empty", f"x.json, row {i + 1}")
    assert report.lines() == [
        "1,000 left out, chosen is empty: x.json, row 1, row 2, row 3, row 4, row 5, row 6, row 7, row 8, row 9, "
        "... 991 more"
    ]


JUDGED = {"prompt": "Why?", "completion": " so"}


@pytest.mark.parametrize(
    ("label", "side"),
    [(True, 1), (False, -1), (1, 1), (0, -1), (1.0, 1), (0.0, -1), ("1", 1), ("0", -1), ("True", 1), ("false", -1),
     ("good", 1), ("bad", -1)],
)  # fmt: skip
def test_labels_of_judged_answers(label, side):
    assert comparison({**JUDGED, "label": label}, "here").sides == (side,)


@pytest.mark.parametrize("label", ["yes", "2", "", 2, -1, 0.5, [1]])
def test_labels_that_could_mean_anything_are_refused(label):
    with pytest.raises(InputError, match="here: its label is"):
        comparison({**JUDGED, "label": label}, "here")


def test_weight_and_margin_may_be_text_as_in_a_csv_file():
    found = comparison({**SHAPES["standard"][0], "weight": "2", "margin": " 0.5"}, "here")
    assert (found.weight, found.margin) == (2.0, 0.5)
    assert comparison({**SHAPES["standard"][0], "weight": "", "margin": ""}, "here").weight == 1.0


def test_a_published_set_with_bad_rows_is_used_without_them(tokenizer, assets):
    rows = sources.load(assets / "cases" / "preference_rows" / "rows.jsonl")["train"]
    found, locations, report = comparisons(rows, max_bad_rows=0.5)
    assert [place.rpartition(" ")[2] for place in locations] == ["1", "3", "6"]
    assert {kind: len(places) for kind, places in report.dropped.items()} == {
        "one answer is the beginning of the other": 1, "chosen equals rejected": 1, "rejected is empty": 1
    }  # fmt: skip
    assert found[0].answers == (" Put it in boiling water for seven minutes.", " I do not know.")
    assert found[2].prompt.endswith("And 'dog'?\n\nAssistant:")
    with pytest.raises(
        InputError, match=r"3 of 6 rows are bad, above --max-bad-rows 0\.05: 1 one answer is the beginning"
    ):
        comparisons(rows)
    with pytest.raises(
        InputError, match=r"line 2: one of chosen and rejected is the beginning .* \(--max-bad-rows 0\)"
    ):
        comparisons(rows, max_bad_rows=0.0)


def test_columns_can_be_named_and_those_not_read_are_reported():
    rows = [{"question": "It?", "answer_a": " a cat", "answer_b": " a dog", "chosen": "x", "id": 1}] * 2
    names = parse_columns("prompt=question,chosen=answer_a,rejected=answer_b")
    found, _, report = comparisons(rows_of(*rows), columns=names)
    assert (found[0].prompt, found[0].answers) == ("It?", (" a cat", " a dog"))
    assert list(report.unread) == ["chosen", "id"]
    assert report.shapes == {"chosen and rejected after prompt": 2}
    assert is_compared(rows[0], names)


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("value", [None, "a \ud83d"])
def test_null_and_half_characters_are_bad_rows(column, value):
    with pytest.raises(BadRow, match=f"here: .*its {column}"):
        comparison({**SHAPES["standard"][0], column: value}, "here")


def test_tools_reach_the_template_and_weight_0_is_not_learnt(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% if tools %}<tools {{ tools | length }}>{% endif %}" + TEMPLATE
    row = {
        "prompt": [user("It?")], "chosen": [{**said("a cat"), "weight": 0}, user("Sure?"), said("yes")],
        "rejected": [said("a dog")], "tools": [{"name": "look"}],
    }  # fmt: skip
    (group,), report = groups_of(tokenizer, row)
    prompt, answers = texts(group, tokenizer)
    assert prompt.startswith("<tools 1><user>It?")
    assert answers[0][1] == f"yes{END}"
    assert not report.lines()
    tokenizer.chat_template = TEMPLATE
    _, report = groups_of(tokenizer, row)
    assert report.lines() == ["the chat template does not show tools (1 rows)"]
