"""Text of --topology, the table of chips, and who holds libtpu."""

import fcntl
import subprocess
import sys
import types

import pytest

from jaxllm.distributed import chips
from jaxllm.distributed.chips import CHIPS, chip_of, gpu_target, peak_flops
from jaxllm.plan import target
from jaxllm.plan.target import parse_target
from jaxllm.types import InputError


@pytest.mark.parametrize(
    ("text", "platform", "sizes", "slices", "devices"),
    [
        ("v5e:16x16", "tpu", (16, 16), 1, 256),
        ("v5e:16x16*2", "tpu", (16, 16), 2, 512),
        ("v5p:4x4x8", "tpu", (4, 4, 8), 1, 128),
        ("v7x:2x2x1", "tpu", (2, 2, 1), 1, 4),
        ("tpu7x:2x2x1", "tpu", (2, 2, 1), 1, 4),
        ("h100:1x4x8", "gpu", (1, 4, 8), 1, 32),
        ("cpu:256", "cpu", (256,), 1, 256),
    ],
)
def test_topologies(text, platform, sizes, slices, devices):
    found = parse_target(text)
    assert (found.platform, found.sizes, found.slices, found.devices) == (platform, sizes, slices, devices)
    assert (found.chip is None) == (platform == "cpu")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("v5e", ["give CHIP:SIZES", "v5e:16x16"]),
        ("v5d:4x4", ["give one of v4, v5e", "did you mean v5"]),
        ("h1000:1x1x8", ["did you mean h100?"]),
        ("v5e:4x4x4", ["v5e:XxY", "such as v5e:8x8"]),
        ("v5p:16x16", ["v5p:XxYxZ", "such as v5p:4x8x8"]),
        ("h100:8", ["h100:SLICESxHOSTSxGPUS", "h100:1x4x8"]),
        ("h100:1x1x8*2", ["SLICESxHOSTSxGPUS"]),
        ("cpu:2x2", ["cpu:DEVICES"]),
        ("cpu:0", ["cpu:DEVICES"]),
    ],
)
def test_a_bad_topology_is_one_line_with_a_good_one(text, parts):
    with pytest.raises(InputError) as error:
        parse_target(text)
    assert all(part in str(error.value) for part in [text, *parts])


@pytest.mark.parametrize(("text", "package"), [("v5e:4x4", "libtpu"), ("h100:1x1x8", "jax-cuda12-plugin")])
def test_a_missing_compiler_names_the_extra_and_the_stand_in(text, package, monkeypatch):
    monkeypatch.setattr(target, "_installed", lambda module: False)
    with pytest.raises(InputError) as error:
        target.prepare(parse_target(text))
    devices = parse_target(text).devices
    for part in (f"{package} is not installed", "pip install 'jaxllm[plan]'", f"--topology cpu:{devices}", "stand-in"):
        assert part in str(error.value)


def test_more_cpu_devices_than_jax_has_started_with():
    with pytest.raises(InputError, match="JAX has started with 8 CPU devices"):
        target.devices_of(parse_target("cpu:16"))
    assert len(target.devices_of(parse_target("cpu:4"))) == 4


def test_who_holds_libtpu_is_named(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    lock.touch()
    monkeypatch.setattr(target, "LOCK", lock)
    target.check_lock()
    code = f"import fcntl, time\nf = open({str(lock)!r}, 'r+')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
    code += "print(1, flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        with pytest.raises(InputError, match=rf"libtpu is in use by process {other.pid} .*wait for it"):
            target.check_lock()
        other.kill()
    with lock.open("r+") as file:  # this process's own lock is no hindrance
        fcntl.flock(file, fcntl.LOCK_EX)
        target.check_lock()


def test_no_lock_file_is_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "LOCK", tmp_path / "none")
    target.check_lock()


def device(kind):
    return types.SimpleNamespace(device_kind=kind)


def test_chips_are_found_by_the_longest_name():
    assert chip_of(device("TPU v5 lite")) is CHIPS["v5e"]
    assert chip_of(device("TPU v5p")) is CHIPS["v5p"]
    assert chip_of(device("NVIDIA H100 80GB HBM3")) is CHIPS["h100"]
    assert chip_of(device("cpu")) is None
    assert peak_flops(device("TPU7x")) == CHIPS["v7x"].flops / 2, "JAX has two devices a chip"
    assert peak_flops(device("TPU v3")) == 61.5e12


def test_every_chip_has_all_its_figures():
    for name, chip in CHIPS.items():
        assert chip.flops >= chip.flops_32 > 1e13, name
        assert chip.memory > 10 * chips.GIB, name
        assert chip.bandwidth > chip.link > chip.network > 1e9, name
        assert bool(chip.dims) != bool(chip.target), name
    assert CHIPS["h100"].peak("float32") == CHIPS["h100"].flops / 2
    assert CHIPS["v5e"].peak("bfloat16") == CHIPS["v5e"].flops


def test_the_target_of_a_gpu_is_written_from_the_table():
    text = gpu_target(CHIPS["a100"])
    for part in ("core_count: 108", "memory_bandwidth: 2039000000000", "major: 8", "feature_extension: NONE"):
        assert part in text
    assert text.count("{") == text.count("}")
    assert "ACCELERATED_FEATURES" in gpu_target(CHIPS["h100"])
