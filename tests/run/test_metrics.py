"""Sums that survive, a metrics file that is always whole, and the clock."""

import io
import json
import time
import types

import numpy as np
import pytest
import rich.console

from jaxllm.distributed.mesh import make_mesh
from jaxllm.run.metrics import Clock, Jsonl, Sums, Terminal, open_writers, peak_flops, read_jsonl
from jaxllm.types import InputError, Mean


def step(total, count, other=0.0):
    return {"loss": ((0.5, Mean(np.float32(total), np.float32(count))), (2.0, Mean(np.float32(other), np.float32(1)))),
            "norm": Mean(np.float32(total), np.float32(1))}  # fmt: skip


def test_metrics_of_several_steps_are_one_mean():
    sums = Sums()
    for metrics in (step(6, 2, 1), step(1, 3, 5)):
        sums.add(metrics)
    assert sums.values() == pytest.approx({"loss": 0.5 * 7 / 5 + 2.0 * 6 / 2, "norm": 7 / 2})


def test_sums_survive_json_exactly_and_do_not_share_memory():
    rng = np.random.default_rng(0)
    sums = Sums()
    for _ in range(50):
        sums.add(step(rng.normal(), rng.random(), rng.normal()))
    state = sums.state
    again = Sums(json.loads(json.dumps(state)))
    assert again.values() == sums.values()
    again.add(step(1, 1))
    assert again.values() != sums.values()
    assert Sums(None).values() == {}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_opened_at_a_position_forgets_what_comes_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = Jsonl(path, 0)
    for position in (2, 4, 4, 6):
        writer.write(position, {"loss": float(position), "bad": float("nan"), "worse": float("inf"), "none": None})
    assert lines(path)[0] == {"step": 2, "loss": 2.0, "bad": None, "worse": None, "none": None}
    assert [line["step"] for line in lines(path)] == [2, 4, 4, 6], "a line is on disk once written"
    writer.close()
    writer = Jsonl(path, 4)
    writer.write(6, {"loss": 7.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in lines(path)] == [(2, 2.0), (4, 4.0), (4, 4.0), (6, 7.0)]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_is_mended(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    writer = Jsonl(path, 0)
    for position in (1, 2, 3):
        writer.write(position, {"loss": 0.5})
    writer.close()
    path.write_text(path.read_text()[: -1 - cut])
    assert [line["step"] for line in read_jsonl(path)] == [1, 2]
    writer = Jsonl(path, 3)
    writer.write(4, {"loss": 0.25})
    writer.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 4]
    assert read_jsonl(tmp_path / "none.jsonl") == []
    assert [line["step"] for line in read_jsonl(path, 2)] == [1, 2]


def test_the_terminal_shows_training_and_evaluation():
    console = rich.console.Console(file=io.StringIO(), width=200)
    terminal = Terminal(200, 0, console)
    terminal.write(10, {"loss": 1.25, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_s": 12345.6, "mfu": None})
    terminal.write(20, {"loss": float("nan"), "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_s": None})
    terminal.write(20, {"dev/f1": 0.75, "dev/loss": 0.5, "dev/f1/person": 0.1, "dev/seconds": 3.0})
    shown = console.file.getvalue().splitlines()
    for part in ("step  10/200", "loss 1.2500", "grad 0.50", "lr 1.00e-03", "12,346 tokens/s"):
        assert part in shown[0]
    assert "loss nan" in shown[1]
    assert "f1 0.7500" in shown[2]
    assert "loss 0.5000" in shown[2]
    assert "person" not in shown[2]


@pytest.mark.parametrize(("log_to", "kinds"), [((), ["Jsonl", "Terminal"]), (("terminal",), ["Jsonl", "Terminal"]),
                                               (("none",), ["Jsonl"]), (("jsonl",), ["Jsonl"])])  # fmt: skip
def test_metrics_jsonl_is_always_written(tmp_path, log_to, kinds):
    writers = open_writers(log_to, tmp_path, position=0, steps=5, config={})
    assert [type(w).__name__ for w in writers] == kinds
    writers[0].write(1, {"loss": 0.0})
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1]


@pytest.mark.parametrize(("log", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_an_extra_that_is_missing_is_named(tmp_path, log, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=rf"--log-to {log} .*jaxllm\[{log}\]"):
        open_writers((log,), tmp_path, position=0, steps=5, config={})


@pytest.mark.parametrize(
    ("given", "environ", "passed"),
    [
        ({}, {}, {"project": "jaxllm"}),
        ({"project": None, "entity": None, "name": None, "tags": None}, {"WANDB_PROJECT": "theirs"}, {}),
        ({"project": "mine", "tags": ("a", "b")}, {"WANDB_PROJECT": "theirs"}, {"project": "mine", "tags": ["a", "b"]}),
        ({"entity": "team", "name": "first"}, {}, {"project": "jaxllm", "entity": "team", "name": "first"}),
    ],
)
def test_a_run_at_wandb_is_named_by_flags_or_by_its_variables(tmp_path, monkeypatch, given, environ, passed):
    """What is not passed, wandb takes from the environment."""
    started, logged = [], []
    run = types.SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **arguments: started.append(arguments) or run)
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for name, x in environ.items():
        monkeypatch.setenv(name, x)
    *_, writer = open_writers(("none", "wandb"), tmp_path, position=0, steps=5, config={"a": 1}, wandb=given)
    writer.write(3, {"loss": 0.5})
    always = {"id": tmp_path.name, "dir": str(tmp_path), "config": {"a": 1}, "resume": "allow"}
    assert started == [always | passed]
    assert logged == [(3, {"loss": 0.5})]


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
    clock = Clock(make_mesh("data=8"), 6e6)
    clock.count(batch)
    now[0] += 30
    clock.compiled()
    assert clock.compile_s == 30
    assert clock.lap() == {"tokens_per_s": None, "mfu": None}, "the first step is no measure"
    for _ in range(5):
        clock.count(types.SimpleNamespace(batch=batch))  # an Answers holds its rows in `batch`
        now[0] += 1
    with clock.paused():
        now[0] += 50
    assert clock.lap() == {"tokens_per_s": pytest.approx(4.0), "mfu": None}
    monkeypatch.setattr("jaxllm.run.metrics.peak_flops", lambda device: 3e6)
    clock = Clock(make_mesh("data=8"), 6e6)
    clock.count(batch)
    now[0] += 0.5
    assert clock.lap()["mfu"] == pytest.approx(8 * 6e6 / (8 * 3e6))
