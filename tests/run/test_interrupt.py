"""Ctrl-C: the state is saved, and the process ends with 130; a second one ends it at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from many import PATIENCE_S, Many

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.run.metrics import read_jsonl
from jaxllm.run.preemption import _REPEAT_S

HELPERS = Path(__file__).parents[1] / "helpers"


HEARS = (
    "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)
"""A program that becomes another, which hears Ctrl-C also where a shell runs the tests in the background."""


def start(*command):
    command = [sys.executable, "-c", HEARS, *map(str, command)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_a_line(process, folder, step=0):
    until = time.monotonic() + PATIENCE_S
    while not (lines := read_jsonl(folder / "metrics.jsonl")) or lines[-1]["step"] < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.1)


def wait_for_the_pause(process, folder):
    """Until it waits for the batch of the fifth step."""
    wait_for_a_line(process, folder, step=4)
    time.sleep(0.5)  # what comes after a line


def newest(folder):
    checkpoints = Checkpoints(folder / "checkpoints", write=False)
    position = checkpoints.latest()
    checkpoints.close()
    return position


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_script_saves_says_so_and_ends_with_its_status(tmp_path, number, status):
    flags = ("--steps", 10**6, "--checkpoint-every", "0", "--eval-every", "0", "--log-every", 5, "--log-to", "jsonl")
    process = start(HELPERS / "toy_script.py", "--out", tmp_path, *flags)
    wait_for_a_line(process, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, errors
    position = newest(tmp_path)
    assert position >= 5
    assert f"saved at step {position}; the same command goes on\n" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_script_that_waits_for_its_data(tmp_path):
    """The first is repeated at once, as it is where a launcher passes on what the terminal has sent already."""
    flags = ("--pause-at", "0:5:600", "--log-every", 2, "--checkpoint-every", "0", "--log-to", "none")
    process = start(HELPERS / "toy_script.py", "--out", tmp_path, *flags)
    wait_for_the_pause(process, tmp_path)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(_REPEAT_S + 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert newest(tmp_path) is None
    assert errors == ""


@pytest.mark.slow
def test_before_the_first_step_a_script_ends_at_once(tmp_path):
    process = start(HELPERS / "toy_script.py", "--out", tmp_path, "--pause-at", "0:1:600", "--log-to", "none")
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "")
    assert newest(tmp_path) is None


CALL = f"""
import sys, time
sys.path.insert(0, {str(HELPERS)!r})
import toy_run
from pathlib import Path
def slow(batch):
    time.sleep(600)
    return batch
at = int(sys.argv[2])
data = toy_run.Data(at, slow) if at else None
try:
    toy_run.go(Path(sys.argv[1]), data, steps=10**6, evals=None, log_every=2, checkpoint_every=0, log_to=("jsonl",))
except KeyboardInterrupt as error:
    print(type(error).__name__, file=sys.stderr, flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        print("as before", file=sys.stderr)
"""


def test_a_library_call_saves_and_raises_a_keyboard_interrupt(tmp_path):
    process = start("-c", CALL, tmp_path, 0)
    wait_for_a_line(process, tmp_path)
    process.send_signal(signal.SIGINT)
    for line in (f"saved at step {0}; the same command goes on", "Interrupted"):
        heard = process.stderr.readline()
        assert heard.replace(str(newest(tmp_path)), "0").strip() == line.replace(str(newest(tmp_path)), "0")
    time.sleep(0.5)  # until it sleeps
    process.send_signal(signal.SIGINT)  # the handler from before `fit` is back
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert errors == "as before\n"
    assert newest(tmp_path) >= 2


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_a_library_call_at_once(tmp_path):
    process = start("-c", CALL, tmp_path, 5)
    wait_for_the_pause(process, tmp_path)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(_REPEAT_S + 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "KeyboardInterrupt\n"
    process.kill()
    process.communicate()
    assert newest(tmp_path) is None


@pytest.mark.slow
def test_ctrl_c_to_one_process_ends_all(tmp_path):
    with Many(tmp_path, "--pause", "0.2", "--steps", "1000", "--checkpoint-every", "500") as many:
        many.wait_for_step(3)
        many.processes[1].send_signal(signal.SIGINT)
        assert many.ends() == [130, 130], many.heard()
        assert many.checkpoints() == [many.logged()]
