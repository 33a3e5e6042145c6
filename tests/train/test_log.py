"""The log of training steps, and the evaluations beside it."""

import types

import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.run import preemption
from jaxllm.run.best import Best
from jaxllm.run.clock import Clock
from jaxllm.run.metrics import Jsonl, Writers, read_jsonl
from jaxllm.train.evaluation import Evaluations
from jaxllm.train.forward import Runner
from jaxllm.train.log import StepLog
from jaxllm.train.nonfinite import NotFinite
from jaxllm.types import Mean

BATCH = types.SimpleNamespace(segments_BT=np.array([[1, 1, 0], [1, 2, 2]]))


def mean(x, count=1.0):
    return Mean(np.float32(x), np.float32(count))


def step_of(loss, count=1.0, skipped=0.0):
    return {"loss": mean(loss, count), "skipped": mean(skipped)}


@pytest.fixture
def made(tmp_path):
    """made(skip=False, meta={}) -> a log that writes metrics.jsonl, with the steps that it described."""
    described = []

    def describe(step, batch, metrics, params):
        described.append(step)
        return f"step {step} is not finite"

    def make(skip=False, meta=types.MappingProxyType({})):
        clock = Clock(make_mesh("data=8"), 1.0)
        return StepLog(Writers([Jsonl(tmp_path / "metrics.jsonl", 0)]), clock, describe, skip, meta), described

    return make


def add(log, number, metrics):
    log.count(BATCH)
    log.add(number, BATCH, metrics)


def test_a_line_is_the_mean_since_the_last_one_and_counts_go_on(made, tmp_path):
    log, _ = made(meta={"tokens": 100, "sums": {"loss": [[1.0, 6.0, 1.0]], "skipped": [[1.0, 0.0, 1.0]]}})
    for number, (loss, count) in enumerate([(2.0, 1.0), (1.0, 2.0)], start=2):
        add(log, number, step_of(loss, count))
    log.collect({})
    log.write(3, 0.5, 0.1)
    assert log.state()["sums"] == {}
    add(log, 4, step_of(8.0))
    log.collect({})
    state = log.state()
    assert (state["tokens"], state["sums"]["loss"]) == (115, [[1.0, 8.0, 1.0]])
    assert state["spikes"] == [2.0, 0.5, 8.0]
    log.write(4, None, 0.2)
    first, second = read_jsonl(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["learning_rate"], first["epoch"]) == (3, 9 / 4, 0.5, 0.1)
    assert (second["step"], second["loss"], second["learning_rate"], second["tokens"]) == (4, 8.0, None, 115)
    assert "skipped" not in first


def test_a_step_that_is_not_finite_raises_or_is_counted(made, tmp_path):
    log, described = made()
    for number in (1, 2, 3):
        add(log, number, step_of(1.0, skipped=float(number == 2)))
    with pytest.raises(NotFinite, match="step 2 is not finite; the last good state is saved"):
        log.collect({})
    assert described == [2]
    assert log.state()["sums"]["loss"] == [[1.0, 2.0, 2.0]]
    log, described = made(skip=True)
    for number in (1, 2, 3):
        add(log, number, step_of(1.0, skipped=float(number == 2)))
    log.collect({})
    log.write(3, 0.5, 0.1)
    assert described == [2, 2]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["skipped"] == pytest.approx(1 / 3)


def evaluations(tmp_path, evals, every=0, best=None):
    mesh = make_mesh("data=8")
    writers = Writers([Jsonl(tmp_path / "metrics.jsonl", 10)])
    return Evaluations(evals, every, Runner(None, {}, mesh), best or Best(), writers, Clock(mesh, 1.0))


def test_evaluations_are_due_at_multiples_and_at_the_end(tmp_path):
    one = {"dev": lambda runner: {}}
    due = lambda made: [step for step in range(1, 7) if made.due(step, step == 5)]
    assert due(evaluations(tmp_path, one, every=3)) == [3, 5, 6]
    assert due(evaluations(tmp_path, one)) == [5]
    assert due(evaluations(tmp_path, {}, every=3)) == []


def test_their_numbers_are_written_and_the_best_step_is_recalled(tmp_path):
    scores = iter([0.5, 0.9, 0.7])
    evals = {
        "dev": lambda runner: {"f1": next(scores), "w": runner.params["w"]},
        "test": lambda runner: {"x": 1.0},
    }
    made = evaluations(tmp_path, evals, best=Best("dev/f1"))
    for step in (2, 4, 6):
        made.run(step, {"w": float(step)})
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path)[1] == {"step": 4, "dev/f1": 0.9, "dev/w": 4.0, "test/x": 1.0}
    assert (made.best.step, made.best.stale) == (4, 1)
    again = evaluations(tmp_path, evals, best=Best("dev/f1"))
    assert again.recall(path, 6, [2, 4, 6])
    assert (again.best.step, again.best.stale) == (4, 1)
    gone = evaluations(tmp_path, evals, best=Best("dev/f1"))
    assert not gone.recall(path, 5, [2, 6]), "nothing was evaluated at 5"
    assert gone.best.step == 2


def test_an_evaluation_ends_between_batches_when_a_signal_came(tmp_path, monkeypatch):
    made = evaluations(tmp_path, {"dev": lambda runner: [runner.between(), runner.between()]})
    points = iter([False, False, True])
    monkeypatch.setattr(preemption, "reached", lambda: next(points))
    with pytest.raises(preemption.Terminated):
        made.run(1, {})
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_patience(tmp_path):
    best = Best("dev/f1", patience=2)
    stops = []
    for step, score in enumerate([0.5, 0.4, 0.6, 0.6, float("nan")]):
        best.add(step, {"dev/f1": score})
        stops.append(best.stop)
    assert stops == [False, False, False, False, True]
    assert best.step == 2
