"""The loop: a run that was killed, cut short, moved or extended is the run that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_run
from toy_run import STEPS, Data, corpus, dev_loss, go, log_of, saved, terminate

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.fit import Terminated
from jaxllm.train.optim import OptimConfig
from jaxllm.types import InputError


def same(a, b, position=STEPS):
    left, right = saved(a, position), saved(b, position)
    assert left.keys() == right.keys()
    for name, x in left.items():
        np.testing.assert_array_equal(x, right[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, what fit gave) of the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, go(folder)


def test_a_run_leaves_its_numbers_and_checkpoints(whole):
    folder, fitted = whole
    lines = log_of(folder)
    assert fitted.position == STEPS
    assert log_of(folder) == [
        {k: x for k, x in line.items() if k not in ("tokens_per_s", "tflops_per_device", "mfu")} for line in fitted.log
    ]
    assert [(line["step"], "loss" in line) for line in lines] == [
        (4, True), (5, False), (8, True), (10, False), (12, True), (12, False),
    ]  # fmt: skip
    assert {"loss", "grad_norm", "learning_rate", "epoch"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(0.05)
    assert lines[4]["epoch"] == pytest.approx(12 / corpus().plan.steps)
    assert all(line["dev/loss"] > 0 for line in lines if "loss" not in line)
    assert lines[-1]["dev/loss"] < lines[1]["dev/loss"], "it learns"
    assert read_jsonl(folder / "metrics.jsonl")[-2]["tokens_per_s"] > 0
    assert json.loads((folder / "config.json").read_text())["script"] == "toy"
    assert saved(folder, 12)["step"] == 12
    moments = [name for name in saved(folder, 12) if name.endswith(("mu/embedding", "nu/kernel"))]
    assert len(moments) == 2
    for name, x in fitted.model.params.items():
        np.testing.assert_array_equal(x, saved(folder, 12)[f"params/{name}"])


def crash(runner, at=[]):  # noqa: B006  (counts its calls)
    at.append(1)
    if len(at) % 2 == 0:
        raise KeyboardInterrupt
    return dev_loss(runner)


@pytest.mark.parametrize("position", [1, 4, 10, 12])
def test_a_run_that_was_terminated_continues_as_if_nothing_had_been(whole, tmp_path, position):
    """4 lies between log lines and checkpoints; 10 and 12 owe an evaluation."""
    with pytest.raises(Terminated) as stop:
        go(tmp_path, Data(position, terminate))
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    manager = Checkpoints(tmp_path / "checkpoints")
    assert manager.latest() == position
    manager.close()
    go(tmp_path)
    same(whole[0], tmp_path)
    assert log_of(tmp_path) == log_of(whole[0])


@pytest.mark.parametrize("cut", [0, 9])
def test_a_run_that_crashed_continues_from_its_checkpoint(whole, tmp_path, cut):
    """In the evaluation at 10: the newest checkpoint is of 9, within the log line of 9 to 12; the file may be torn."""
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, evals={"dev": crash})
    path = tmp_path / "metrics.jsonl"
    path.write_text((path.read_text() + '{"step": 10, "loss": 0.123}\n')[: -cut or None])
    go(tmp_path)
    same(whole[0], tmp_path)
    assert log_of(tmp_path) == log_of(whole[0])


def test_a_finished_run_run_again_is_as_it_was(whole):
    folder, fitted = whole
    before = (folder / "metrics.jsonl").read_text()
    again = go(folder, Data(1, lambda batch: pytest.fail("it trains")))
    assert (folder / "metrics.jsonl").read_text() == before
    assert again.position == STEPS
    assert again.compile_s == 0
    for name, x in again.model.params.items():
        np.testing.assert_array_equal(x, fitted.model.params[name])


def test_more_steps_extend_a_run_which_says_from_where(whole, tmp_path, capsys):
    arguments = {"log_every": 3, "eval_every": 3}
    go(tmp_path / "long", **arguments)
    go(tmp_path / "short", steps=6, log_to=("terminal",), **arguments)
    assert "goes on" not in capsys.readouterr().out
    go(tmp_path / "short", steps=STEPS, log_to=("terminal",), **arguments)
    assert f"goes on from step 6 of {tmp_path / 'short'}, {STEPS - 6} to go\n" in capsys.readouterr().out
    same(tmp_path / "long", tmp_path / "short")
    assert log_of(tmp_path / "long") == log_of(tmp_path / "short")


def test_a_schedule_that_ended_is_laid_out_over_the_longer_run(tmp_path):
    cosine = OptimConfig(learning_rate=0.05, schedule="cosine", warmup=0)
    rates = lambda: {x["step"]: x["learning_rate"] for x in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in x}
    for steps in (4, 8):
        go(tmp_path, steps=steps, optimizer=cosine, log_every=1, evals=None)
    found = rates()
    assert found[4] < 0.02 < found[5]
    np.testing.assert_allclose(found[5], 0.025 * (1 + np.cos(np.pi * 4 / 8)), rtol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"), [("data=2", "data=2,fsdp=2,tensor=2"), ("fsdp=8", "data=1"), ("fsdp=8", "data=2,tensor=4")]
)
def test_a_run_continues_on_another_mesh(whole, tmp_path, before, after):
    with pytest.raises(Terminated):
        go(tmp_path, Data(7, terminate), mesh=before)
    fitted = go(tmp_path, mesh=after)
    for name, x in whole[1].model.params.items():
        np.testing.assert_allclose(fitted.model.params[name], x, rtol=1e-5, atol=1e-5)
    for a, b in zip(log_of(tmp_path), log_of(whole[0]), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_pmap_is_jit(tmp_path):
    """Without dropout, whose masks each device draws for itself; the one continues what the other began."""
    arguments = {"rate": 0.0, "mesh": "data=4"}
    jit = go(tmp_path / "jit", **arguments)
    with pytest.raises(Terminated):
        go(tmp_path / "pmap", Data(6, terminate), strategy="pmap", **arguments)
    with pytest.raises(Terminated):
        go(tmp_path / "pmap", Data(9, terminate), **arguments)
    pmap = go(tmp_path / "pmap", strategy="pmap", **arguments)
    for name, x in jit.model.params.items():
        np.testing.assert_allclose(pmap.model.params[name], x, rtol=1e-5, atol=1e-5)
    for a, b in zip(log_of(tmp_path / "pmap"), log_of(tmp_path / "jit"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": "dev/f1"}, "--best dev/f1: give EVALUATION/NUMBER:max or :min; evaluations: dev"),
        ({"best": "test/f1:max"}, "--best test/f1:max"),
        ({"best": "dev:max"}, "--best dev:max"),
        ({"best": "dev/f2:max", "eval_every": 1}, "--best dev/f2: the evaluation gives dev/loss"),
        ({"early_stopping": 2}, "--early-stopping needs --best"),
        ({"strategy": "pjit"}, "--strategy pjit: give jit or pmap"),
        ({"strategy": "pmap", "mesh": "fsdp=2"}, "--strategy pmap keeps a copy of the model per device"),
        ({"microbatches": 3}, "16 rows a step do not divide over 2 devices x 3 microbatches"),
    ],
)
def test_fit_refuses(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        go(tmp_path, **changes)
    assert message in str(error.value)


def test_sigterm_ends_a_process_with_143_and_a_checkpoint(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(toy_run.__file__).parent)!r}); import toy_run\n"
        f"toy_run.go({str(tmp_path)!r}, steps=10**6, evals=None, log_every=50, checkpoint_every=0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while not read_jsonl(tmp_path / "metrics.jsonl") and process.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    manager = Checkpoints(tmp_path / "checkpoints")
    position = manager.latest()
    assert position == manager.meta(position)["step"]
    assert position >= read_jsonl(tmp_path / "metrics.jsonl")[-1]["step"] >= 50
    manager.close()
