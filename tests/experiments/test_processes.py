"""One program over the same eight devices, in one process, two and four: the same run; and twice: the same bits."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxllm.run.metrics import read_jsonl

ROOT = Path(__file__).parents[2]
SPEEDS = ("tokens_per_s", "tflops_per_device", "mfu")
SHAPE = {"vocab_size": 300, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "max_positions": 64}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A corpus, a configuration, and a cache for tokens and tokenizers."""
    path = tmp_path_factory.mktemp("processes")
    functions = [f for _, f in inspect.getmembers(inspect, inspect.isfunction)][:20]
    (path / "text.jsonl").write_text("".join(json.dumps({"text": inspect.getsource(f)}) + "\n" for f in functions))
    (path / "model.json").write_text(json.dumps(SHAPE))
    return path


def launch(world, processes, devices, *command, **environment):
    """Runs a script in some processes over all devices, and gives back what they printed."""
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(world / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment,
    }  # fmt: skip
    words = [sys.executable, "-m", "jaxllm.launch", "--processes", str(processes), "--devices-per-process",
             str(devices // processes), *command]  # fmt: skip
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(world, out, processes, *flags, **environment):
    """Trains with some processes over eight devices, and gives back what it printed."""
    return launch(
        world, processes, 8, "experiments/pretrain.py", "--model", str(world / "model.json"), "--tokenizer", "char",
        "--dataset", str(world / "text.jsonl"), "--out", str(world / out), "--max-length", "32", "--log-every", "1",
        "--mesh", "data=2,fsdp=4", "--schedule", "constant", "--warmup", "0", "--checkpoint-every", "2",
        "--sample-tokens", "8", "--seed", "1", *flags, **environment,
    )  # fmt: skip


def numbers(folder):
    """What a run logged, but for its speed, and how far rounding moves a sampler from the train step."""
    return [
        {name: x for name, x in line.items() if name not in SPEEDS and not name.startswith(("time/", "sampling/"))}
        for line in read_jsonl(folder / "metrics.jsonl")
    ]


def same(found, expected, position=0, least=1e-12):
    """Numbers and exported parameters of two runs."""
    lines = [line for line in numbers(expected) if line["step"] > position]
    here = [line for line in numbers(found) if line["step"] > position]
    assert [line.keys() for line in here] == [line.keys() for line in lines]
    for one, other in zip(here, lines, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=least), one
    ours, theirs = (load_file(folder / "hf" / "model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_allclose(ours[name], x, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alone(world):
    """Four steps of one process."""
    out = run(world, "alone", 1, "--steps", "4", "--eval-every", "2")
    assert "[0] for transformers" in out
    return world / "alone"


@pytest.mark.slow
def test_two_processes_train_evaluate_and_export_as_one_does(world, alone):
    out = run(world, "two", 2, "--steps", "4", "--eval-every", "2")
    same(world / "two", alone)
    evaluations = [line for line in numbers(world / "two") if "dev/loss" in line]
    assert [line["step"] for line in evaluations] == [2, 4]
    assert evaluations[0]["sample/characters"] > 0
    assert "for transformers" in out
    assert not re.search(r"^\[1\] .*[a-z]", out, re.MULTILINE), "the first process speaks for all"


@pytest.mark.slow
def test_what_four_processes_saved_one_goes_on_with(world, alone):
    run(world, "four", 4, "--steps", "2", "--eval-every", "2")
    assert json.loads((world / "four" / "summary.json").read_text())["steps"] == 2
    run(world, "four", 1, "--steps", "4", "--eval-every", "2")
    same(world / "four", alone)


@pytest.mark.slow
def test_two_runs_of_one_command_are_equal_bit_for_bit(world, alone):
    """With tokens made anew, another order of hashes, and the flag that GPUs need, which CPUs do not mind."""
    anew = {"PYTHONHASHSEED": "12", "XDG_CACHE_HOME": str(world / "another"), "JAX_ENABLE_COMPILATION_CACHE": "0"}
    run(world, "again", 1, "--steps", "4", "--eval-every", "2", "--deterministic", **anew)
    assert numbers(world / "again") == numbers(alone)
    ours, theirs = (load_file(folder / "hf" / "model.safetensors") for folder in (world / "again", alone))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], x) for name, x in theirs.items())


@pytest.mark.slow
def test_online_training_on_eight_devices_of_two_processes_is_that_on_one_device(world):
    """With functions that processes share out, and a reference; groups without signal are drawn anew."""
    sums = ({"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5))
    (world / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    for out, processes, devices, mesh in (("o1", 1, 1, "data=1"), ("o2", 2, 8, "fsdp=4,tensor=2")):
        launch(
            world, processes, devices, "experiments/online.py", "--model", str(world / "model.json"),
            "--tokenizer", "char", "--dataset", str(world / "sums.jsonl"), "--out", str(world / out), "--mesh", mesh,
            "--max-length", "12", "--max-completion-length", "4", "--batch-size", "4", "--num-generations", "4",
            "--steps", "3", "--steps-per-generation", "2", "--log-every", "1", "--eval-prompts", "4",
            "--learning-rate", "3e-5",  # Adam makes of what rounding adds to a small gradient a share of this
            "--eval-generations", "0", "--reward", "format+length:0.5", "--loss-args", "beta=0.1",
            "--reward-args", "format.pattern=[0-9]+.*", "length.longest=2", "--dynamic-sampling", "1",
        )  # fmt: skip
    same(world / "o2", world / "o1", least=1e-7)  # a loss and a divergence near 0 are the rounding of numbers near 1
    alone, two = ((world / out / "samples.jsonl").read_text() for out in ("o1", "o2"))
    assert alone == two
    assert {line["step"] for line in numbers(world / "o1") if "completions/ended" in line} == {1, 3}
