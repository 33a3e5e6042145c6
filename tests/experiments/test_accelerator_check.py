"""accelerator_check.py at toy sizes: whole, cut off and gone on with."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from started import quick_flags

import accelerator_check
from checks.trace import times_of

SCRIPT = Path(__file__).parents[2] / "experiments" / "accelerator_check.py"


def run(folder, *argv):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{quick_flags()} --xla_backend_optimization_level=0",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    command = [sys.executable, str(SCRIPT), "--out", str(folder / "found"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done, folder / "found"


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path):
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((found / "report.json").read_text())
    assert list(report["parts"]) == list(accelerator_check.PARTS)
    names = {}
    for part, one in report["parts"].items():
        assert one["complete"]
        assert one["toy"]
        assert one["device"] == "cpu"
        assert one["entries"], part
        assert all(entry["ok"] is not False for entry in one["entries"])
        names[part] = {entry["name"] for entry in one["entries"]}
    assert names["families"] == {"llama", "bert"}
    assert {"flash, segments", "xla in blocks, segments", "flash, dropout"} <= names["attention"]
    assert {"bare matrix products", "in chunks", "all logits"} <= names["head"]
    assert {"pretraining", "named entities"} <= names["training"]
    assert "SIGTERM and on" in names["survival"]
    assert "a trace" in names["trace"]
    assert "toy sizes" in done.stdout
    assert report["machine"]["versions"]["jax"]

    again, _ = run(tmp_path, "--parts", "head", "trace")
    assert again.returncode == 0
    assert again.stdout.count("complete in") == 2


@pytest.mark.slow
def test_a_part_that_is_cut_off_keeps_what_it_has(tmp_path):
    done, found = run(tmp_path, "--parts", "head", "--limit-s", "0.0001")
    report = json.loads((found / "report.json").read_text())
    entries = report["parts"]["head"]["entries"]
    assert all("over 0 s" in entry["left_out"] for entry in entries)
    assert done.returncode == 0, "left out is not wrong"
    assert len(entries) == 5, "nothing was begun"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--parts", "heads"],
            "error: --parts heads: give one of families, attention, head",
        ),
        (["--limit-s", "0"], "error: --limit-s 0: give more than 0"),
    ],
)
def test_bad_input_is_one_line(tmp_path, argv, said):
    done, found = run(tmp_path, *argv)
    assert done.returncode == 2
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1
    assert not found.exists()


def test_verdicts():
    entries = [{"name": "a", "ok": True}, {"name": "b", "ok": None}]
    part = {"entries": entries, "complete": True, "status": 0}
    assert accelerator_check.verdict(part) == ("right", 1, 0)
    assert accelerator_check.verdict({**part, "entries": [*entries, {"ok": False}]}) == ("wrong", 1, 1)
    assert accelerator_check.verdict({**part, "complete": False, "status": None})[0] == "cut off"
    assert accelerator_check.verdict({**part, "complete": False, "status": 1})[0] == "failed"


def test_times_of_a_device_in_a_trace(tmp_path):
    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0 NVIDIA H100"}},
        {"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "Stream #1(Compute)"}},
        {"ph": "M", "pid": 1, "tid": 3, "name": "thread_name", "args": {"name": "XLA Modules"}},
        {"ph": "M", "pid": 9, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "X", "pid": 1, "tid": 2, "name": "gemm", "dur": 3000},
        {"ph": "X", "pid": 1, "tid": 2, "name": "gemm", "dur": 1000},
        {"ph": "X", "pid": 1, "tid": 2, "name": "flash_attention_forward", "dur": 5000},
        {"ph": "X", "pid": 1, "tid": 3, "name": "jit_step", "dur": 9000},
        {"ph": "X", "pid": 9, "tid": 4, "name": "python", "dur": 9000},
    ]
    path = tmp_path / "one.trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": events}, file)
    with gzip.open(path, "rt") as file:
        assert times_of(json.load(file)) == {"flash_attention_forward": 5.0, "gemm": 4.0}
