"""The best step, and when patience runs out."""

import pytest

from jaxllm.run.best import Best, check_best, parse_best
from jaxllm.types import InputError


def test_patience_counts_evaluations_that_are_not_better():
    best = Best("dev/f1", patience=2)
    stops = []
    for step, score in enumerate([0.5, 0.4, 0.6, 0.6, float("nan")]):
        best.add(step, {"dev/f1": score})
        stops.append(best.stop)
    assert stops == [False, False, False, False, True]
    assert best.step == 2


def test_a_number_that_an_evaluation_does_not_give_is_refused_where_it_names_its_numbers():
    def evaluation(model):
        return {"f1": 1.0, "loss": 2.0}

    assert parse_best("dev/zzz:max", {"dev": evaluation}).metric == "dev/zzz"
    evaluation.numbers = ("f1", "loss")
    assert parse_best("dev/loss:min", {"dev": evaluation}).metric == "dev/loss"
    with pytest.raises(InputError, match="--best dev/lost:min: dev gives no lost; give one of f1, loss; did you mean"):
        parse_best("dev/lost:min", {"dev": evaluation})


def test_what_evaluations_give_may_be_known_before_there_are_any():
    check_best("", evals={})
    check_best("dev/loss:min", evals={"dev": ("f1", "loss")})
    with pytest.raises(InputError, match="--best dev/lost:min: dev gives no lost; give one of f1, loss"):
        check_best("dev/lost:min", evals={"dev": ("f1", "loss")})
    with pytest.raises(InputError, match="give EVALUATION/NUMBER:max or :min; evaluations: none here"):
        check_best("dev/loss:min", evals={})
