"""What the process has used: numbers that agree with what it did."""

import sys
import time
import types

import pytest

from jaxllm.run import usage


def test_age_and_processor_time_grow():
    age, cpu = usage.age_s(), usage.cpu_s()
    ends = time.perf_counter() + 0.1
    while time.perf_counter() < ends:
        pass
    assert usage.age_s() >= age + 0.09
    assert 0.02 < usage.cpu_s() - cpu < 60


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_of_the_host_begins_anew():
    before = usage.host_bytes()
    usage.reset_peak()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert usage.host_bytes(peak=True) >= before + (60 << 20)
    usage.reset_peak()
    assert usage.host_bytes(peak=True) < usage.host_bytes() + (30 << 20)


def test_devices_that_are_cpus_have_no_memory_of_their_own():
    device = lambda kind, n: types.SimpleNamespace(
        platform=kind, memory_stats=lambda: {"peak_bytes_in_use": n, "bytes_in_use": 1}
    )
    assert usage.device_bytes([device("cpu", 5)], peak=True) is None
    assert usage.device_bytes([device("gpu", 5), device("gpu", 7)], peak=True) == 7
    assert usage.device_bytes([device("gpu", 5)]) == 1
