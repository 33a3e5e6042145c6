"""Scores of classifiers: by hand, and as scikit-learn and SciPy define them; answers as the pipeline words them."""

import numpy as np
import pytest

from jaxllm.evals.classify import answer, confusion_table, measure, scores_of, table

LABELS = ("a", "b", "c")
LOGITS = np.log(np.array([[6, 3, 1], [1, 8, 1], [5, 4, 1], [1, 1, 8]], np.float32) / 10)


def test_one_label_by_hand():
    found = measure(LOGITS, np.array([0, 1, 1, 2], np.int32), LABELS, "single")
    assert found["accuracy"] == found["micro_f1"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # Gorodkin 2004: (c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2))
    assert found["matthews"] == pytest.approx((3 * 4 - (2 * 1 + 1 * 2 + 1)) / np.sqrt((16 - 6) * (16 - 6)))
    assert found["loss"] == pytest.approx(-np.log([0.6, 0.8, 0.4, 0.8]).mean(), rel=1e-6)
    assert (found["b/precision"], found["b/recall"], found["b/support"]) == (1, 0.5, 2)


def test_several_labels_by_hand():
    logits = np.array([[2, -1, -1], [1, 1, -3]], np.float32)
    found = measure(logits, np.array([[1, 0, 0], [1, 0, 0]], np.float32), LABELS, "multi")
    assert found["accuracy"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert found["macro_f1"] == pytest.approx(1 / 3)
    signed = np.array([[2, 1, 1], [1, -1, 3]])
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-signed)).mean(), rel=1e-6)


def test_numbers_by_hand():
    x, y = np.array([[1.0], [2], [4], [3]], np.float32), np.array([[10.0], [30], [90], [40]], np.float32)
    found = measure(x, y, ("n",), "regression")
    assert found["spearman"] == pytest.approx(1)
    a, b = x[:, 0] - 2.5, y[:, 0] - 42.5
    assert found["pearson"] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert found["loss"] == pytest.approx(np.square(x - y).mean())
    still = measure(np.ones((4, 1), np.float32), y, ("n",), "regression")
    assert (still["pearson"], still["spearman"]) == (0, 0)


def test_answers():
    assert answer(scores_of(LOGITS, "single")[0], LABELS, "single") == {
        "label": "a", "score": 0.6, "scores": {"a": 0.6, "b": 0.3, "c": 0.1},
    }  # fmt: skip
    several = answer(scores_of(np.array([[0.1, -0.1, 3]]), "multi")[0], LABELS, "multi")
    assert several["labels"] == ["a", "c"]
    assert several["scores"]["a"] == pytest.approx(1 / (1 + np.exp(-0.1)), abs=1e-6)
    assert answer(scores_of(np.array([[2.5]]), "regression")[0], ("n",), "regression") == {"score": 2.5}
    assert np.isfinite(scores_of(np.array([[1e4, -1e4, 0]]), "multi")).all()


def test_tables():
    numbers = measure(LOGITS, np.array([0, 1, 1, 2], np.int32), LABELS, "single")
    assert table(numbers, "single", LABELS).row_count == 3
    assert table(measure(LOGITS[:, :1], LOGITS[:, 1:2], ("n",), "regression"), "regression", ("n",)).row_count == 0
    assert confusion_table({"labels": ["a", "b"], "counts": [[3, 1], [0, 2]]}).row_count == 2
    many = np.diag(np.arange(30))
    many[3, 4] = 5
    assert confusion_table({"labels": list(map(str, range(30))), "counts": many.tolist()}).row_count == 1
