"""Devices are looked for, not packages, and a plugin without a device is silent."""

import fnmatch
import os
import subprocess
import sys

import pytest

from jaxllm import accelerators


@pytest.mark.parametrize(
    ("plugins", "devices", "environ", "on_cpu"),
    [
        ([], [], {}, True),
        (["libtpu"], [], {}, True),  # installed where there is no TPU, for plans of a pod
        (["libtpu"], ["/dev/accel0"], {}, False),
        (["libtpu"], ["/dev/vfio/0"], {}, False),
        (["libtpu"], ["/dev/vfio/vfio"], {}, True),
        (["libtpu"], ["/dev/nvidia0"], {}, True),
        (["jax_cuda13_plugin"], [], {}, True),
        (["jax_cuda13_plugin"], ["/dev/nvidiactl"], {}, True),
        (["jax_cuda13_plugin"], ["/dev/nvidia0"], {}, False),
        (["jax_cuda12_plugin"], ["/dev/nvidia3"], {}, False),
        (["jax_cuda12_plugin"], ["/dev/dxg"], {}, False),
        (["jax_cuda12_plugin"], ["/dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, True),
        (["jax_cuda12_plugin"], ["/dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": "0,1"}, False),
        ([], ["/dev/nvidia0", "/dev/accel0"], {}, True),
        (["libtpu"], ["/dev/accel0"], {"JAX_PLATFORMS": "cpu"}, True),
        ([], [], {"JAX_PLATFORMS": "cuda,cpu"}, False),
    ],
)
def test_a_device_is_looked_for_and_not_a_package(plugins, devices, environ, on_cpu, monkeypatch):
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda module: module in plugins or None)
    monkeypatch.setattr(accelerators.glob, "glob", lambda pattern: fnmatch.filter(devices, pattern))
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, x in environ.items():
        monkeypatch.setenv(name, x)
    assert accelerators.on_cpu() == on_cpu


@pytest.mark.parametrize(
    ("plugins", "idle"),
    [([], False), (["libtpu"], True), (["jax_cuda12_plugin"], True), (["libtpu", "jax_rocm7_plugin"], False)],
)
def test_idle_plugins_are_those_without_a_device(plugins, idle, monkeypatch):
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda module: module in plugins or None)
    monkeypatch.setattr(accelerators.glob, "glob", lambda pattern: [])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert accelerators.idle_plugins() == idle


def test_a_notice_is_left_out_and_all_else_is_kept():
    code = (
        "import os; from jaxllm.accelerators import without_notices\n"
        "with without_notices():\n"
        "    os.write(2, b'first\\nI00 x.cc:31] Could not find cuda drivers on your machine\\nlast')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert run.stderr == "first\nlast"


def test_a_start_with_the_extra_installed_prints_nothing():
    pytest.importorskip("jax_cuda12_plugin", reason="of the extra `plan`")
    code = "import os; os.environ['JAXLLM_STARTED'] = '1'; from jaxllm.recipes.script import set_up; set_up()\n"
    environ = {name: x for name, x in os.environ.items() if name != "JAX_PLATFORMS"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert (run.stdout, run.stderr) == ("", "")
