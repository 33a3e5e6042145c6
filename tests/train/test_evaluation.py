"""When evaluations are due, what they write, and how a signal ends them."""

import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.run import preemption
from jaxllm.run.best import Best
from jaxllm.run.clock import Clock
from jaxllm.run.metrics import Jsonl, Writers, read_jsonl
from jaxllm.train.evaluation import Evaluations
from jaxllm.train.forward import Runner


def evaluations(tmp_path, evals, every=0, best=None):
    mesh = make_mesh("data=8")
    writers = Writers([Jsonl(tmp_path / "metrics.jsonl", 10)])
    return Evaluations(evals, every, Runner(None, {}, mesh), best or Best(), writers, Clock(mesh, lambda batch: 0.0))


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
