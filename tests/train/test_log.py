"""The log of training steps."""

import types

import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.run.clock import Clock
from jaxllm.run.metrics import Jsonl, Writers, read_jsonl
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
        clock = Clock(make_mesh("data=8"), lambda batch: 0.0)
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
    assert log.state()["sums"]["loss"] == [[1.0, 1.0, 1.0]]
    log, described = made(skip=True)
    for number, loss in ((1, 1.0), (2, np.nan), (3, 2.0)):
        add(log, number, step_of(loss, skipped=float(number == 2)))
    log.collect({})
    log.write(3, 0.5, 0.1)
    add(log, 4, step_of(np.nan, skipped=1.0))
    log.collect({})
    log.write(4, 0.5, 0.1)
    assert described == [2, 2, 4]
    some, all_ = read_jsonl(tmp_path / "metrics.jsonl")[-2:]
    assert (some["loss"], some["skipped"]) == (1.5, pytest.approx(1 / 3)), "the mean of the steps that trained"
    assert (all_["loss"], all_["grad_norm"], all_["skipped"]) == (None, None, 1.0)
