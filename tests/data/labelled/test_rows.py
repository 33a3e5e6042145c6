"""Rows as texts with labels, and what becomes of bad ones."""

import pytest

from jaxllm.data.files import Part
from jaxllm.data.labelled.columns import find_columns, recognise
from jaxllm.data.labelled.rows import Reader, Text, names_in, without_unseen
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.types import InputError


def rows(*found, names=None):
    return Rows([Part("d.jsonl", list(found), range(1, len(found) + 1), {"label": names} if names else {})])


def read(part, problem="", columns="", share=1.0):
    chosen = find_columns(part[0], part.where(0), columns)
    reader = Reader.of(
        part, chosen, problem or recognise([row.get(chosen.labels[0]) for row in part], len(chosen.labels))
    )
    report = Report(max_bad_rows=share)
    return reader.read(part, report), report


def labels(part, *args, **kwargs):
    return [text.label for text in read(part, *args, **kwargs)[0]]


def each(*values, names=None):
    return rows(*({"text": f"t{i}", "label": x} for i, x in enumerate(values)), names=names)


def test_one_label_is_a_name():
    assert labels(each("b", "a")) == ["b", "a"]
    assert labels(each(0, 1, names=["no", "yes"])) == ["no", "yes"]
    assert labels(each(3, 10, True)) == ["3", "10", "true"]
    assert labels(each(1.0, 2.0), "single") == ["1", "2"]
    assert labels(each(["a"], "b"), "single") == ["a", "b"]


def test_numbers_and_lists():
    assert labels(each(0.5, "2.5", 3)) == [0.5, 2.5, 3.0]
    assert labels(each(["b", "a", "b"], [])) == [("b", "a"), ()]
    assert labels(each([0, 2], [], names=["x", "y", "z"])) == [("x", "z"), ()]
    assert labels(each([0, 0, 1], [1, 1, 0], names=["x", "y", "z"])) == [("z",), ("x", "y")]
    assert labels(each([0.0, 1.0])) == [("1",)]
    assert labels(each('["a", "b"]', "[]")) == [("a", "b"), ()]
    assert labels(each("a|b", "c, d"), "multi") == [("a", "b"), ("c", "d")]
    marks = rows({"text": "x", "rude": "1", "mad": "0"}, {"text": "y", "rude": "0", "mad": "true"})
    assert labels(marks, columns="label=rude+mad") == [("rude",), ("mad",)]


def test_names_are_sorted_as_numbers_where_they_are():
    assert names_in([Text("", None, x, "") for x in ("10", "9", "b", "a", ("-1", "a"), 2.5, None)]) == [
        "-1", "9", "10", "a", "b",
    ]  # fmt: skip


BAD = {
    "no label": (each("a", None), "with"),
    "hidden label": (each(0, -1, names=["a"]), "without a label"),
    "no such class": (each(0, 7, names=["a"]), "with a number of no class"),
    "not finite": (each(0.5, float("inf")), "with a label that is no number"),
    "two labels": (each("a", ["b", "c"]), "with another number of labels"),
    "no text": (rows({"text": "x", "label": "a"}, {"text": " ", "label": "a"}), "without a text"),
    "one text of a pair": (
        rows({"premise": "x", "hypothesis": "y", "label": "a"}, {"premise": "x", "hypothesis": None, "label": "a"}),
        "of a pair with one text",
    ),
    "half a character": (
        rows({"text": "x", "label": "a"}, {"text": "\ud83d", "label": "a"}),
        "a lone surrogate in text",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_left_out_counted_and_named(case):
    part, kind = BAD[case]
    found, report = read(part)
    assert len(found) == 1
    ((reason, places),) = report.dropped.items()
    assert kind in reason
    assert places == ["d.jsonl, line 2"]
    with pytest.raises(InputError, match=r"^d.jsonl, line 2: .*--max-bad-rows"):
        read(part, share=0.0)


def test_a_label_that_is_no_number_is_left_out():
    found, report = read(each(0.5, "x", 1.5))
    assert [text.label for text in found] == [0.5, 1.5]
    assert report.dropped == {"with a label that is no number": ["d.jsonl, line 2"]}


def test_rows_of_the_wrong_structure_stop():
    with pytest.raises(InputError, match=r"d.jsonl, line 1: text holds a int, wanted a text"):
        read(rows({"text": 3, "label": "a"}))
    with pytest.raises(InputError, match=r"d.jsonl, line 1: label holds a dict"):
        read(each({"a": 1}), "single")


def test_columns_that_nobody_reads_are_told():
    assert [*read(rows({"text": "a", "label": "b", "idx": 3}))[1].unread] == ["idx"]


def test_a_label_unseen_in_training_is_bad():
    texts = [Text("x", None, label, f"dev.csv, line {i}") for i, label in enumerate(("a", "b", ("a", "c")))]
    report = Report(max_bad_rows=1.0)
    report.total = 3
    assert without_unseen(texts, {"a"}, report) == texts[:1]
    assert report.dropped == {"with a label unseen in training": ["dev.csv, line 1", "dev.csv, line 2"]}
    with pytest.raises(InputError, match=r"dev.csv, line 1: label 'b' is unseen in training"):
        without_unseen(texts, {"a"}, Report(max_bad_rows=0.0))
