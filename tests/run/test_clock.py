"""The clock measures training alone."""

import time
import types

import numpy as np
import pytest

from jaxllm.distributed.chips import peak_flops
from jaxllm.distributed.mesh import make_mesh
from jaxllm.run.clock import Clock


def test_the_peak_is_that_of_the_longest_name():
    kind = lambda name: types.SimpleNamespace(device_kind=name)
    assert peak_flops(kind("TPU v5 lite")) == 197e12
    assert peak_flops(kind("TPU v5p")) == peak_flops(kind("TPU v5")) == 459e12
    assert peak_flops(kind("NVIDIA H100 80GB HBM3")) == 989e12
    assert peak_flops(kind("cpu")) is None


def test_the_clock_counts_training_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    batch = types.SimpleNamespace(segments_BT=np.array([[1, 1, 2, 0], [1, 0, 0, 0]]))
    clock = Clock(make_mesh("data=8"), lambda batch: 24e6)
    clock.count(batch)
    now[0] += 30
    clock.compiled()
    assert clock.compile_s == 30
    assert clock.lap() == {"tokens_per_s": None, "tflops_per_device": None, "mfu": None}, "the first step is no measure"
    for _ in range(5):
        clock.count(types.SimpleNamespace(batch=batch))  # an Answers holds its rows in `batch`
        now[0] += 1
    with clock.paused():
        now[0] += 50
    assert clock.lap() == {"tokens_per_s": pytest.approx(4.0), "tflops_per_device": pytest.approx(3e-6), "mfu": None}
    monkeypatch.setattr("jaxllm.run.clock.peak_flops", lambda device: 3e6)
    clock = Clock(make_mesh("data=8"), lambda batch: 24e6)
    clock.count(batch)
    now[0] += 0.5
    assert clock.lap()["mfu"] == pytest.approx(24e6 / 0.5 / (8 * 3e6))
