"""The best step, and when patience runs out."""

from jaxllm.run.best import Best


def test_patience_counts_evaluations_that_are_not_better():
    best = Best("dev/f1", patience=2)
    stops = []
    for step, score in enumerate([0.5, 0.4, 0.6, 0.6, float("nan")]):
        best.add(step, {"dev/f1": score})
        stops.append(best.stop)
    assert stops == [False, False, False, False, True]
    assert best.step == 2
