"""`fit` as a library calls it: few arguments, no script, any thread, any optimizer."""

import json
import threading
import time

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from toy_run import Data, corpus, go, terminate, toy

from jaxllm.losses import resolve
from jaxllm.losses.tokens import cross_entropy
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.fit import Terminated, fit
from jaxllm.train.optim import OptimConfig
from jaxllm.types import InputError

CONFIG = OptimConfig(learning_rate=0.05, schedule="constant", warmup=2)


def short(**changes):
    """Three steps on all devices."""
    arguments = {"loss": cross_entropy, "data": corpus(), "optimizer": CONFIG, "steps": 3, "log_to": ("none",)}
    return fit(toy(), **{**arguments, **changes})


def test_six_arguments_are_enough_and_nothing_is_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "runs/fit-20260102-030405")
    (tmp_path / "runs" / "fit-20260102-030405").mkdir(parents=True)
    fitted = short()
    assert capfd.readouterr() == ("", "")
    folder = tmp_path / "runs" / "fit-20260102-030405-2"
    assert fitted.position == 3
    assert fitted.log == read_jsonl(folder / "metrics.jsonl")
    assert fitted.model.mesh.shape["data"] == jax.device_count() == 8
    config = json.loads((folder / "config.json").read_text())
    assert config["script"] == "fit"
    assert config["config"] == {
        "loss": "cross_entropy", "seed": 0, "steps": 3, "microbatches": 1,
        "optimizer": json.loads(json.dumps(CONFIG.__dict__)),
    }  # fmt: skip


def test_the_same_call_goes_on_and_another_is_refused(tmp_path):
    out = str(tmp_path / "run")
    whole = short(out=str(tmp_path / "whole"), steps=5)
    short(out=out)
    fitted = short(out=out, steps=5)
    for name, x in whole.model.params.items():
        np.testing.assert_array_equal(fitted.model.params[name], x)
    for changes in ({"seed": 1}, {"loss": resolve("focal", gamma=3.0)}, {"optimizer": optax.sgd(0.1)}):
        [field] = changes
        with pytest.raises(InputError, match=rf"holds another experiment \({field} .* there, .* here\)"):
            short(out=out, steps=5, **changes)


def test_an_optax_transformation_is_the_configuration_it_equals(tmp_path):
    """The rate is what the schedule says, or null."""
    ours = short(out=str(tmp_path / "ours"), optimizer=OptimConfig(learning_rate=0.05, schedule="constant"))
    rate = optax.constant_schedule(0.05)
    mask = {"embedding": True, "kernel": True}
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01, mask=mask))
    logs = []
    for name, schedule in (("none", None), ("given", rate)):
        fitted = short(out=str(tmp_path / name), optimizer=theirs, schedule=schedule)
        logs.append([line["learning_rate"] for line in fitted.log])
        for key, x in ours.model.params.items():
            np.testing.assert_allclose(fitted.model.params[key], x, rtol=1e-5, atol=1e-6)
    assert logs == [[None], [pytest.approx(0.05)]]


def test_a_schedule_replaces_that_of_the_configuration(tmp_path):
    fitted = short(out=str(tmp_path), schedule=optax.constant_schedule(0.0))
    start = jax.jit(toy().init)(jax.random.key(0))
    for name, x in fitted.model.params.items():
        np.testing.assert_array_equal(x, start[name])
    assert fitted.log[-1]["learning_rate"] == 0


def test_rules_replace_those_of_the_model(tmp_path):
    fitted = short(out=str(tmp_path), rules=((".*", P("data")),))
    assert {x.sharding.spec for x in fitted.model.params.values()} == {P("data")}


def test_in_another_thread_and_after_a_call_that_was_terminated(tmp_path):
    """A signal that stopped an earlier call does not stop this one; no handler is set."""
    with pytest.raises(Terminated):
        go(tmp_path / "before", Data(2, terminate))
    found = []
    thread = threading.Thread(target=lambda: found.append(short(out=str(tmp_path / "run"))))
    thread.start()
    thread.join()
    assert [fitted.position for fitted in found] == [3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"on_nan": "go"}, "--on-nan go: give one of stop, skip"), ({"log_to": ("wand",)}, "did you mean wandb?")],
)
def test_names_that_are_not_known(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        short(out=str(tmp_path / "run"), **changes)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()
