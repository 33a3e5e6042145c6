"""Sums of metrics are exact, also across a checkpoint."""

import json

import numpy as np
import pytest

from jaxllm.run.sums import Sums
from jaxllm.types import Mean


def step(total, count, other=0.0):
    return {"loss": ((0.5, Mean(np.float32(total), np.float32(count))), (2.0, Mean(np.float32(other), np.float32(1)))),
            "norm": Mean(np.float32(total), np.float32(1))}  # fmt: skip


def test_metrics_of_several_steps_are_one_mean():
    sums = Sums()
    for metrics in (step(6, 2, 1), step(1, 3, 5)):
        sums.add(metrics)
    assert sums.values() == pytest.approx({"loss": 0.5 * 7 / 5 + 2.0 * 6 / 2, "norm": 7 / 2})


def test_sums_survive_json_exactly_and_do_not_share_memory():
    rng = np.random.default_rng(0)
    sums = Sums()
    for _ in range(50):
        sums.add(step(rng.normal(), rng.random(), rng.normal()))
    state = sums.state
    again = Sums(json.loads(json.dumps(state)))
    assert again.values() == sums.values()
    again.add(step(1, 1))
    assert again.values() != sums.values()
    assert Sums(None).values() == {}
