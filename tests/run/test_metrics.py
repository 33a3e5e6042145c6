"""A metrics file that is always whole, and which writers a run has."""

import json
import types

import pytest

from jaxllm.run.metrics import Jsonl, open_writers, read_jsonl
from jaxllm.types import InputError


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
