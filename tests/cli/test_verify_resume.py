"""A script that goes on as it should passes verify-resume, and one that forgets something does not."""

import subprocess
import sys

import pytest

SCRIPT = '''
"""Adds up its steps; `--forget 1` begins anew with the arrays where it is started again."""
import argparse, json, pathlib, time
import jax.numpy as jnp
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.checkpoint.compare import like
from jaxllm.types import TrainState

parser = argparse.ArgumentParser()
for name, kind in (("--out", pathlib.Path), ("--steps", int), ("--forget", int), ("--add", float)):
    parser.add_argument(name, type=kind, default=0)
config = parser.parse_args()
checkpoints = Checkpoints(config.out / "checkpoints")
zero = TrainState(jnp.int32(0), {"w": jnp.zeros(2)}, {"n": jnp.int32(0)})
start = checkpoints.latest() or 0
state = zero
if start:
    state, _ = checkpoints.restore(start, like(checkpoints.meta(start)))
    state = zero if config.forget else state
for step in range(start + 1, config.steps + 1):
    state = TrainState(jnp.int32(step), {"w": state.params["w"] + step + config.add}, {"n": jnp.int32(step)})
    checkpoints.save(step, state, {"seed": 0, "data": "d", "random": [step], "tokens": step, "sums": {}, "spikes": []})
    with (config.out / "metrics.jsonl").open("a") as log:
        if step == config.steps:
            print(json.dumps({"step": step, "loss": 0.0}), file=log)
    time.sleep(0.05)
checkpoints.close()
(config.out / "summary.json").write_text("{}")
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.slow
def test_a_script_that_goes_on_and_one_that_forgets(script, tmp_path):
    def verify(*argv):
        command = [sys.executable, "-m", "jaxllm", "verify-resume", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = verify("--on", "--add 1e-8", "--on", "--add 1", str(script), "--steps", "25")
    assert (good.returncode, good.stderr) == (1, "")
    lines = [line.split(None, 1) for line in good.stdout.splitlines()]
    assert [word for word, _ in lines if word != "killed"] == ["straight", "equal", "equal", "DIFFERS", "runs"]
    assert any("SIGKILL" in text for word, text in lines if word == "killed")
    assert "bit for bit: 2 arrays, position, step, seed, data, random, tokens, 1 lines" in good.stdout
    assert "within 1e-05 under --add 1e-8" in good.stdout
    assert "params/w differs by up to" in lines[-2][1]

    work = tmp_path / "work"
    bad = verify("--kills", "1", "--work", str(work), str(script), "--steps", "25", "--forget", "1")
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "DIFFERS   params/w differs by up to" in bad.stdout
    assert "opt_state" not in bad.stdout, "the counter is right"
    assert sorted(path.name for path in work.iterdir()) == ["killed", "killed.txt", "straight", "straight.txt"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the script to run"),
        (["no.py"], "no.py: there is no such script"),
        (["{}", "--out", "x"], "--out: verify-resume gives each run a folder of its own"),
        (["--on", "--checkpoints=gs://x", "{}"], "--checkpoints: verify-resume gives"),
        (["--on", "", "{}"], "--on is empty"),
        (["--on", "--mesh 'data", "{}"], "No closing quotation"),
        (["--work", "/dev/null", "{}"], "--work /dev/null: no folder can be made there"),
        (["--kills", "0", "{}"], "--kills 0: at least 1 is needed"),
        (["--devices", "-1", "{}"], "--devices -1: give a number"),
        (["--work", "{}/..", "{}"], "is not empty: give another"),
        (["--kill", "2", "{}"], "did you mean --kills?"),
    ],
)
def test_bad_input_is_one_line(command, capsys, script, argv, message):
    argv = [text.replace("{}/..", str(script.parent)).replace("{}", str(script)) for text in argv]
    with pytest.raises(SystemExit) as stop:
        command("verify-resume", *argv)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_what_the_script_says_of_its_input_is_passed_on(command, capsys, tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys; print('error: --steps x: give a number', file=sys.stderr); sys.exit(2)")
    with pytest.raises(SystemExit) as stop:
        command("verify-resume", path)
    assert stop.value.code == 2
    assert "error: the script ended with status 2: --steps x: give a number (" in capsys.readouterr().err
