"""plan.py: the line about memory and time with which the launchers' dry runs end."""

import ast
import importlib.util
import shlex
import stat
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("launchers_plan", ROOT / "tpu/plan.py")
plan = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plan)
SCRIPT = ("experiments/pretrain.py", "--model", "llama-1b", "--mesh", "fsdp=16")

FAKE = """
import os, runpy, sys
if sys.argv[1] == "-m":
    open("told", "w").write(repr(sys.argv[1:]))
    print("as planned")
else:  # a launcher in Python, which takes this for its own
    sys.executable, sys.argv = os.path.abspath(__file__), sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def told(world):
    """A world with a script, whose python writes down what it is told and answers as a plan does."""
    (world.repo / "experiments").mkdir()
    (world.repo / "experiments/pretrain.py").write_text("import jaxllm\n")
    world.git("init", "--quiet", "--bare", str(world.root / "origin.git"))
    world.git("remote", "add", "origin", str(world.root / "origin.git"))
    world.commit("script")
    world.git("push", "--quiet", "origin", "main")
    python = world.root / "bin/python"
    python.write_text(f"#!{sys.executable}\n{FAKE}")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return world


def asked(world):
    path = world.repo / "told"
    return ast.literal_eval(path.read_text()) if path.exists() else None


@pytest.mark.parametrize(
    ("words", "hardware"),
    [
        (("tpu/pod.sh", "launch", "one", "--dry-run", "--zone", "z", "--type", "v5litepod-16", "--"), "v5e:4x4"),
        (("tpu/pod.sh", "launch", "one", "--dry-run", "--zone", "z", "--type", "v5p-16", "--slices", "2", "--"),
         "v5p:2x2x2*2"),
        (("bash", "tpu/slurm.sbatch", "--dry-run", "--topology", "h100:1x4x8"), "h100:1x4x8"),
    ],
)  # fmt: skip
def test_the_shells_dry_runs_end_with_it(told, words, hardware):
    done = told.run(*words, "python", *SCRIPT)
    assert done.stdout.splitlines()[-1] == "# plan: as planned"
    assert asked(told) == ["-m", "jaxllm", "plan", *SCRIPT, "--topology", hardware, "--summary"]
    assert not told.log
    told.run(*words, "python", "absent.py")
    assert "# no plan: absent.py is not here" in told.run(*words, "python", "absent.py").stdout


@pytest.mark.parametrize(
    ("flags", "hardware"),
    [
        ("jobset --tpu tpu-v5-lite-podslice:4x4:4 --slices 2", "v5e:4x4*2"),
        ("jobset --tpu tpu-v6e-slice:8x8:4", "v6e:8x8"),
        ("jobset --gpus 8 --hosts 4 --gpu-type nvidia-h100-80gb", "h100:1x4x8"),
        ("jobset --gpus 8 --hosts 4", ""),
        ("sky --accelerators A100-80GB:8 --nodes 2", "a100:1x2x8"),
        ("sky --accelerators tpu-v6e-16", "v6e:4x4"),
    ],
)
def test_submit_says_what_it_submits_to(told, flags, hardware):
    kind, *rest = shlex.split(flags)
    words = (told.root / "bin/python", "tpu/submit.py", kind, "--name", "one", *rest, "--dry-run", "--")
    last = told.run(*words, "python", *SCRIPT).stdout.splitlines()[-1]
    if hardware:
        assert last == "# plan: as planned"
        assert asked(told)[-3:] == ["--topology", hardware, "--summary"]
    else:
        assert last == "# no plan: the hardware is none whose shape is known"


@pytest.mark.parametrize(
    ("kind", "hardware"),
    [("v5litepod-256", "v5e:16x16"), ("v4-8", "v4:2x2x1"), ("v6e-8*1", "v6e:2x4"), ("v2-8", "v2-8"), ("v6e-5", ""),
     ("h100:1x1x8", "h100:1x1x8"), ("", ""), ("*1", "")],
)  # fmt: skip
def test_types_of_tpus(kind, hardware):
    assert plan.topology(kind) == hardware


def test_without_the_extra_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("import jaxllm\n")
    python = tmp_path / "python"
    for said in ("/usr/bin/python: No module named jaxllm",
                 "error: --topology v5e:4x4: libtpu is not installed, whose compiler makes the plan"):  # fmt: skip
        python.write_text(f"#!/bin/sh\necho {shlex.quote(said)} >&2\nexit 2\n")
        python.chmod(0o755)
        found = plan.line("v5e:4x4", ["python", "a.py"], str(python))
        assert found == f"no plan: {plan.GET}"
        assert "pip install -e '.[plan]'" in found
    python.write_text("#!/bin/sh\necho 'error: --mesh fsdp=3 wants 3 devices, there are 16' >&2\nexit 2\n")
    assert plan.line("v5e:4x4", ["python", "a.py"], str(python)) == (
        "no plan: --mesh fsdp=3 wants 3 devices, there are 16"
    )
    assert plan.line("v5e:4x4", ["bash", "a.sh"]).startswith("no plan: the command is not python")


@pytest.mark.slow
def test_a_real_plan(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    words = ["python", "experiments/pretrain.py", "--model", "tiny", "--max-length", "64", "--batch-size", "8"]
    assert plan.line("cpu:8", words).startswith("plan: cpu:8: ")
    assert plan.line("cpu:8", [*words, "--mesh", "fsdp=3"]).startswith("no plan: --mesh fsdp=3 wants 3 devices")
