"""Rows that are left out and counted, those that stop the run, and text that is none."""

import pytest

from jaxllm.data.report import BadRow, Report, check_argument, check_text, convert_each, usable
from jaxllm.types import InputError


def where(i):
    return f"a.jsonl, line {i + 1}"


def convert(row, location):
    if row == "empty":
        raise BadRow(f"{location}: it is empty", "empty")
    if row == "half":
        raise BadRow(f"{location}, message 1: half of it", "half")
    if row == "wrong":
        raise InputError(f"{location}: of another type")
    if row == "template":
        raise InputError("the template is broken")
    return row.upper()


def test_good_rows_are_converted_and_bad_ones_counted_by_kind():
    report = Report(max_bad_rows=0.5)
    found = convert_each(["a", "empty", "b", "half", "c", "empty", "d"], convert, where, report)
    assert found == (["A", "B", "C", "D"], [where(0), where(2), where(4), where(6)])
    assert report.dropped == {"empty": [where(1), where(5)], "half": [where(3)]}
    assert (report.kept, report.total) == (4, 7)
    assert report.lines() == [
        "2 left out, empty: a.jsonl, line 2, line 6",
        "1 left out, half: a.jsonl, line 4",
    ]


def test_a_warning_where_more_than_half_of_the_rows_are_cut():
    rows = [("a", ["prompts", "answers"]), ("b", ["answers"]), ("c", []), ("d", [])]
    report = Report()
    report.select(rows, where)
    assert report.lines() == ["cut to --max-length: 1 prompts, 2 answers"]
    report = Report()
    report.select([*rows, ("e", ["answers"])], where)
    assert report.lines() == [
        "cut to --max-length: 1 prompts, 3 answers",
        "warning: 3 of 5 rows are cut; give a larger --max-length, or choose what is lost by --cut",
    ]


def test_the_share_is_a_limit():
    rows = ["empty", *"a" * 19]
    assert len(convert_each(rows, convert, where, Report())[0]) == 19
    with pytest.raises(InputError) as error:
        convert_each([*rows, "half"], convert, where, Report())
    assert str(error.value) == (
        "a.jsonl, line 1: it is empty (2 of 21 rows are bad, above --max-bad-rows 0.05: 1 empty: a.jsonl, line 1; "
        "1 half: a.jsonl, line 21)"
    )


def test_no_bad_row_is_taken_with_a_share_of_0():
    with pytest.raises(InputError, match=r"^a.jsonl, line 2: it is empty \(--max-bad-rows 0\)$"):
        convert_each([*"a" * 1, "empty", *"a" * 99, "half"], convert, where, Report(max_bad_rows=0.0))


def test_with_a_share_of_1_something_must_be_left():
    with pytest.raises(InputError, match=r"no row is left to train on: 2 left out, empty: a\.jsonl, line 1, line 2"):
        convert_each(["empty", "empty"], convert, where, Report(max_bad_rows=1.0))


def test_the_wrong_structure_stops_the_run():
    with pytest.raises(InputError, match=r"^a.jsonl, line 2: of another type ... and 1 more: line 4$"):
        convert_each(["a", "wrong", "empty", "wrong"], convert, where, Report(max_bad_rows=1.0))


def test_an_error_that_is_not_about_the_row_is_raised_as_it_is():
    with pytest.raises(InputError, match=r"^the template is broken$"):
        convert_each(["a", "template", "template"], convert, where, Report())


def test_bad_rows_of_a_second_step_add_to_those_of_the_first():
    report = Report(max_bad_rows=0.25)
    _, locations = convert_each(["empty", *"abc"], convert, where, report)
    with pytest.raises(InputError, match="2 of 4 rows are bad"):
        convert_each(["half", "b", "c"], convert, locations.__getitem__, report)


def test_rows_of_a_stream_are_counted_anew_by_each_pass():
    report, rows = Report(max_bad_rows=0.5), [("a", where(0)), ("empty", where(1)), ("b", where(2))]
    for _ in range(2):
        assert list(usable(rows, convert, report)) == ["A", "B"]
    assert (report.dropped, report.total) == ({"empty": [where(1)]}, 3)
    with pytest.raises(InputError, match="2 of 2 rows are bad"):
        list(usable(rows[1:2] * 2, convert, report))


@pytest.mark.parametrize("value", ["a \ud83d b", {"a": ["b", {"c": "\udc80"}]}, {"\ud83d": 1}])
def test_half_of_an_emoji_is_no_text(value):
    with pytest.raises(BadRow, match=r"row 1: a lone surrogate \(.u(d83d|dc80), half of a character\) in its text"):
        check_text(value, "row 1", "text")
    check_text({"a": ["b", 3, None, "\U0001f600 é"]}, "row 1", "text")


def test_an_argument_that_is_not_utf8():
    with pytest.raises(InputError, match=r"the prompt 'a.+udcff': not UTF-8 at character 2; give it in UTF-8"):
        check_argument("a\udcff", "the prompt")
    check_argument("é", "the prompt")
