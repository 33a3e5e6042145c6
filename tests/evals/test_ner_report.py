"""The page on what a tagger gets wrong."""

import pytest

from jaxllm.evals import ner_report as report

WORDS = [["Ada", "Lovelace", "met", "Alan"], ["in", "New", "York", "City"], ["no", "one"]]
TRUE = [["B-per", "I-per", "O", "B-per"], ["O", "B-loc", "I-loc", "I-loc"], ["O", "O"]]
FOUND = [["B-per", "I-per", "O", "B-loc"], ["O", "O", "I-loc", "I-loc"], ["O", "B-per"]]


def test_scores_confusion_and_worst_sentences():
    a, b = ([report.entities(tags) for tags in lines] for lines in (TRUE, FOUND))
    assert report.exact(a, b, lambda e: True) == pytest.approx((1 / 4, 1 / 3, 2 / 7))
    assert report.lenient(a, b) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert report.lenient([], []) == (0, 0, 0)
    assert report.confusion(a, b) == {("per", "per"): 1, ("per", "loc"): 1, ("loc", "loc"): 1, ("", "per"): 1}
    page = report.write_report(WORDS, TRUE, FOUND, "IOB2")
    assert "| type and both ends | 0.2500 | 0.3333 | 0.2857 |" in page
    assert "| strict: and tags as the scheme writes them | 0.3333 | 0.3333 | 0.3333 |" in page
    assert "| lenient: type and a word in common | 0.5000 | 0.6667 | 0.5714 |" in page
    assert "| 2 | 0.5000 | 1.0000 | 0.6667 | 1 |" in page
    assert "| none | 0 | 1 | 0 |" in page
    assert "| 1 to 10 | 0.2500 | 0.3333 | 0.2857 | 3 | 3 |\n| 11 to 20 | 0.0000 | 0.0000 | 0.0000 | 0 | 0 |" in page
    assert report.strict(TRUE, FOUND, "IOB2") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert "1. Ada Lovelace met Alan\n   * missed: per 'Alan'\n   * wrong: loc 'Alan'" in page
    assert "no one\n   * missed: none\n   * wrong: per 'one'" in page
