"""Rows whose answers have scores, ranks or a judgement, as pairs."""

import pytest
from data_rows import rows_of

from jaxllm.data import sources
from jaxllm.data.preference.pairs import comparisons
from jaxllm.data.preference.rivals import compared
from jaxllm.data.report import BadRow
from jaxllm.types import InputError


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


SCORED = {"prompt": "Q", "completions": ["a", "b", "c", "d"], "scores": [0.1, 0.9, 0.5, 0.9]}


def pairs(row, every=False):
    return [(pair["chosen"], pair["rejected"]) for pair in compared(row, "row 1", every)]


def test_the_best_is_compared_with_the_worst_or_every_two_that_differ():
    assert pairs(SCORED) == [("b", "a")]
    assert pairs(SCORED, every=True) == [("b", "c"), ("b", "a"), ("d", "c"), ("d", "a"), ("c", "a")]


def test_a_low_rank_is_better():
    row = {"prompt": "Q", "answers": [{"answer": "a", "rank": 2.0}, {"answer": "b", "rank": 1.0, "model": "x"}]}
    assert pairs(row) == [("b", "a")]
    for column in ("rank", "ranks"):
        row = {"prompt": "Q", "completions": ["a", "b", "c"], column: [2, 1, 3]}
        assert pairs(row) == [("b", "c")]
        assert pairs(row, every=True) == [("b", "a"), ("b", "c"), ("a", "c")]


def test_several_chosen_to_one_rejected_and_the_other_way():
    row = {"prompt": "Q", "chosen": ["a", "b"], "rejected": "c"}
    assert pairs(row) == [("a", "c"), ("b", "c")]
    assert pairs({**row, "rejected": ["c", "d"]}) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert pairs({**row, "chosen": "a", "rejected": ["c", "d"]}) == [("a", "c"), ("a", "d")]
    talk = [said("a")], [said("b")]
    assert pairs({"prompt": [user("Q")], "chosen": [*talk], "rejected": [said("c")]}) == [
        (talk[0], [said("c")]), (talk[1], [said("c")])
    ]  # fmt: skip
    assert pairs({"prompt": [user("Q")], "chosen": talk[0], "rejected": talk[1]}) == []  # messages, as ever
    found, locations, report = comparisons(rows_of({**row, "id": 3}))
    assert [one.answers for one in found] == [("a", "c"), ("b", "c")]
    assert locations == ["train.jsonl, line 1, pair 1", "train.jsonl, line 1, pair 2"]
    assert (list(report.unread), dict(report.shapes)) == (["id"], {"chosen and rejected, lists in chosen": 1})


@pytest.mark.parametrize(("label", "chosen"), [(1, "a"), (0, "b"), ("1", "a")])
def test_a_human_preferred_one(label, chosen):
    row = {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": label}
    (pair,) = compared(row, "row 1", False)
    assert (pair["question"], pair["chosen"]) == ("Q", chosen)


def test_other_rows_have_no_rivals():
    assert (
        compared({"prompt": "Q", "chosen": "a", "rejected": "b", "completions": [], "scores": []}, "row 1", False) == []
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scores": [1, 1, 1, 1]}, "no two of its answers have different scores"),
        ({"completions": [], "scores": []}, "no two of its answers"),
        ({"scores": [1, None, 1, 1]}, "a score is absent"),
        ({"scores": [1, float("nan"), 1, 1]}, "a score is not a number"),
    ],
)
def test_rows_without_a_choice_are_bad_in_content(change, fault):
    with pytest.raises(BadRow, match=f"row 1: {fault}"):
        compared({**SCORED, **change}, "row 1", False)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "Q", "completions": ["a"], "rank": [1, 2]}, "its completions and rank are not two lists"),
        ({**SCORED, "scores": [1]}, "its completions and scores are not two lists of one length"),
        ({**SCORED, "scores": ["1", "2", "3", "4"]}, "a score is '1', wanted a number"),
        ({"prompt": "Q", "answers": ["a"]}, "its answers are not a list of answer and rank"),
        ({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 2}, "its labels are 2"),
    ],
)
def test_other_types_stop_the_run(row, fault):
    with pytest.raises(InputError, match=f"row 1: {fault}") as error:
        compared(row, "row 1", False)
    assert not isinstance(error.value, BadRow)


def test_pairs_of_a_row_have_locations_of_their_own_and_columns_are_read():
    found, locations, report = comparisons(rows_of({**SCORED, "id": 3}), every=True)
    assert locations[:2] == ["train.jsonl, line 1, pair 1", "train.jsonl, line 1, pair 2"]
    assert [one.answers for one in found][:2] == [("b", "c"), ("b", "a")]
    assert list(report.unread) == ["id"]


@pytest.mark.parametrize(
    ("name", "first", "unread"),
    [
        ("shp", ([user("Q 0")], ([said("Bad thing 0")], [said("Good 0")])), []),
        ("scores", ("Q 0", ("B thing 0", "A 0")), []),
        ("nectar", ("\n\nHuman: Q 0\n\nAssistant: ", ("A 0", "B 0")), []),
    ],
)
def test_the_rows_of_the_cases(assets, name, first, unread):
    found, _, report = comparisons(sources.load(assets / "cases" / "row_shapes" / f"{name}.jsonl")["train"])
    assert len(found) == 3
    assert (found[0].prompt, found[0].answers) == first
    assert list(report.unread) == unread
