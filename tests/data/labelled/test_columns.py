"""Which columns hold texts and labels, and what kind of label it is."""

import pytest

from jaxllm.data.labelled.columns import Columns, find_columns, is_multi_hot, number, recognise
from jaxllm.types import InputError


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("text label", ("text", "", ("label",))),
        ("idx sentence label", ("sentence", "", ("label",))),
        ("review stars", ("review", "", ("stars",))),
        ("sentence1 sentence2 score", ("sentence1", "sentence2", ("score",))),
        ("premise hypothesis gold_label", ("premise", "hypothesis", ("gold_label",))),
        ("question sentence label idx", ("question", "sentence", ("label",))),
        ("question1 question2 label", ("question1", "question2", ("label",))),
        ("text coarse_label fine_label", ("text", "", ("coarse_label",))),
        ("question label", ("question", "", ("label",))),
    ],
)
def test_columns_are_told_by_their_names(row, found):
    assert find_columns(dict.fromkeys(row.split(), "x"), "a.csv, line 2") == Columns(*found)


def test_columns_are_named_by_a_flag():
    row = {"a": "x", "b": "y", "text": "z", "rude": "1", "mad": "0"}
    assert find_columns(row, "", "text=a,pair=b,label=rude+mad") == Columns("a", "b", ("rude", "mad"))
    assert find_columns(row, "", "text=a", labelled=False) == Columns("a", "", ())
    with pytest.raises(InputError, match=r"a.csv, line 2: --columns names c, and its columns are a, b"):
        find_columns(row, "a.csv, line 2", "text=c")
    with pytest.raises(InputError, match="columns can be named text, pair, label"):
        find_columns(row, "", "prompt=a")
    with pytest.raises(
        InputError, match=r"no column of labels; its columns are a: .*; name it by --columns label=COLUMN"
    ):
        find_columns({"a": 1}, "", "text=a")
    with pytest.raises(InputError, match="no column of texts"):
        find_columns({"a": 1}, "")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["good", "bad", None], "single"), ([0, 1, 1], "single"), ([True, False], "single"), (["0", "1"], "single"),
        ([0.5, 3.0], "regression"), (["4.2", "5.0", "n/a"], "regression"), ([["a"], []], "multi"),
        (['["a", "b"]', "[]"], "multi"), ([[0, 1], [1, 0]], "multi"),
    ],
)  # fmt: skip
def test_the_labels_tell_the_problem(values, problem):
    assert recognise(values) == problem


def test_several_columns_are_several_labels():
    assert recognise(["1", "0"], 3) == "multi"


def test_lists_of_classes_and_lists_of_marks_are_told_apart():
    assert is_multi_hot([[0, 0, 1], [1, 0, 0]], None)
    assert is_multi_hot([[1.0, 0.0]], None)
    assert is_multi_hot([[0, 1], [1, 0]], ["a", "b"])
    assert not is_multi_hot([[0, 1], [1, 0]], ["a", "b", "c"])
    assert not is_multi_hot([[0], [0, 1]], None)
    assert not is_multi_hot([[3, 1], [0, 2]], None)
    assert not is_multi_hot([["a"], ["b"]], None)


def test_what_is_a_number():
    assert [number(x) for x in ("3.5", 2, "x", None, float("nan"), True, "inf")] == [3.5, 2, *[None] * 5]
