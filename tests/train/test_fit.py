"""The loop: a run that was killed, cut short, moved or extended is the run that was not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.data.loader import lengths, loader
from jaxllm.data.packing import Example, make_plan
from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.layers import dropout
from jaxllm.params import describe
from jaxllm.train.checkpoint import Checkpoints, read_params
from jaxllm.train.fit import Terminated, fit
from jaxllm.train.log import read_jsonl
from jaxllm.train.mesh import make_mesh
from jaxllm.train.optim import OptimConfig
from jaxllm.train.run import Run
from jaxllm.types import InputError, value

STEPS = 12


class Toy(nnx.Module):
    """Drops half of a token's embedding, and classifies it."""

    def __init__(self, rngs, rate):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (24, 8)))
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (8, 8)))
        self.rate = rate

    def hidden(self, batch, key=None):
        return dropout(jnp.tanh(self.embedding[...][batch.tokens_BT]), self.rate, key), {}

    def head(self, hidden_ND):
        return hidden_ND @ self.kernel[...]


def toy(rate=0.5):
    return describe(lambda rngs: Toy(rngs, rate), ((".*", P("fsdp", "tensor")),))


def corpus():
    rng = np.random.default_rng(0)
    made = []
    for n in rng.integers(3, 15, 90):
        tokens = rng.integers(0, 24, n).astype(np.int32)
        made.append(Example(tokens, tokens % 8, (rng.random(n) < 0.7).astype(np.float32)))
    return loader(made, make_plan(lengths(made), batch_size=18, multiple=8, seed=3))


class Data:
    """The corpus, with something happening before the batch of a position."""

    def __init__(self, at=0, happens=lambda batch: batch):
        self.plan, self._loader, self._at, self._happens = (c := corpus()).plan, c, at, happens

    def iterate(self, start, stop, rows=None):
        for position, batch in enumerate(self._loader.iterate(start, stop, rows), start=start + 1):
            yield self._happens(batch) if position == self._at else batch


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)
    return batch


def poison(batch):
    return dataclasses.replace(batch, weights_BT=np.full_like(batch.weights_BT, np.nan))


def dev_loss(runner):
    """An evaluation in earnest: without dropout, on the first batches."""
    numbers = runner.map(forward, [corpus().batch(i) for i in range(2)])
    return {"loss": float(np.mean([float(x) for x in numbers]))}


def forward(model, batch):
    return value(cross_entropy(model, batch)["loss"])


def scripted(*scores):
    left = list(scores)
    return lambda runner: {"f1": left.pop(0), "other": 1.0}


def go(folder, data=None, *, mesh="data=2", rate=0.5, **changes):
    """A run of the toy; the mesh is of as many devices as it says."""
    devices = int(np.prod([int(part.partition("=")[2]) for part in mesh.split(",")]))
    arguments = {
        "loss": cross_entropy, "data": data or Data(), "steps": STEPS, "seed": 7, "log_to": ("none",), "log_every": 4,
        "checkpoint_every": 3, "eval_every": 5, "evals": {"dev": dev_loss},
        "optimizer": OptimConfig(learning_rate=0.05, schedule="constant", warmup=2),
    }  # fmt: skip
    run = Run(Path(folder), {"script": "toy", "config": {}})
    return fit(toy(rate), run=run, mesh=make_mesh(mesh, jax.devices()[:devices]), **{**arguments, **changes})


def saved(folder, position):
    """Parameters, optimizer state and update count of a checkpoint, as saved."""
    arrays = {}
    manager = Checkpoints(folder / "checkpoints")
    for item in ("params", "opt_state"):
        read = ocp.StandardCheckpointer().restore(folder.absolute() / "checkpoints" / str(position) / item)
        arrays |= {f"{item}/{name}": np.asarray(x) for name, x in read.items()}
    arrays["step"] = manager.meta(position)["step"]
    manager.close()
    return arrays


def log_of(folder):
    timing = ("tokens_per_s", "mfu")
    return [{k: x for k, x in line.items() if k not in timing} for line in read_jsonl(folder / "metrics.jsonl")]


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
        {k: x for k, x in line.items() if k not in ("tokens_per_s", "mfu")} for line in fitted.log
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


def test_more_steps_extend_a_run(whole, tmp_path):
    arguments = {"log_every": 3, "eval_every": 3}
    go(tmp_path / "long", **arguments)
    go(tmp_path / "short", steps=6, **arguments)
    go(tmp_path / "short", steps=STEPS, **arguments)
    same(tmp_path / "long", tmp_path / "short")
    assert log_of(tmp_path / "long") == log_of(tmp_path / "short")


@pytest.mark.parametrize("mesh", ["fsdp=4", "data=2,fsdp=2,tensor=2"])
def test_a_run_continues_on_another_mesh(whole, tmp_path, mesh):
    with pytest.raises(Terminated):
        go(tmp_path, Data(7, terminate))
    fitted = go(tmp_path, mesh=mesh)
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


def test_the_best_step_is_kept_and_given_back(tmp_path):
    scores = scripted(0.1, 0.9, float("nan"), 0.9, 0.3, 0.2)
    fitted = go(tmp_path, evals={"dev": scores}, eval_every=2, checkpoint_every=0, best="dev/f1:max")
    manager = Checkpoints(tmp_path / "checkpoints")
    assert manager.positions() == [4, 12]
    manager.close()
    assert fitted.position == 4
    best = read_params(tmp_path, toy().graphdef.abstract, 4)
    last = read_params(tmp_path, toy().graphdef.abstract)
    assert not np.array_equal(best["kernel"], last["kernel"])
    for name, x in best.items():
        np.testing.assert_array_equal(fitted.model.params[name], x)
    # Of another number the best step may be gone: then it is the best of what is kept.
    assert go(tmp_path, evals={"dev": scores}, eval_every=2, best="dev/f1:min").position == 12


def test_keep_and_best_together_across_an_interruption(tmp_path):
    arguments = {"eval_every": 2, "checkpoint_every": 2, "best": "dev/f1:min", "keep": 2}
    with pytest.raises(Terminated):
        go(tmp_path, Data(7, terminate), evals={"dev": scripted(0.5, 0.2, 0.3)}, **arguments)
    fitted = go(tmp_path, evals={"dev": scripted(0.4, 0.6, 0.2)}, **arguments)
    manager = Checkpoints(tmp_path / "checkpoints")
    assert manager.positions() == [4, 10, 12]
    manager.close()
    assert fitted.position == 4, "the first of equals"


def test_early_stopping_stops_and_stays_stopped(tmp_path):
    arguments = {"eval_every": 2, "checkpoint_every": 0, "best": "dev/f1:max", "early_stopping": 2}
    fitted = go(tmp_path, evals={"dev": scripted(0.1, 0.9, 0.5, 0.8)}, **arguments)
    assert fitted.position == 4
    assert fitted.log[-1]["step"] == 8
    before = (tmp_path / "metrics.jsonl").read_text()
    again = go(tmp_path, Data(9, lambda batch: pytest.fail("it trains")), evals={"dev": scripted()}, **arguments)
    assert again.position == 4
    assert (tmp_path / "metrics.jsonl").read_text() == before
    for name, x in again.model.params.items():
        np.testing.assert_array_equal(x, fitted.model.params[name])


def test_a_loss_that_is_not_finite_stops_the_run_and_the_state_is_good(tmp_path):
    arguments = {"eval_every": 2, "checkpoint_every": 0, "best": "dev/f1:max", "keep": 1}
    data = Data(7, poison)
    with pytest.raises(FloatingPointError, match=r"near step 8.*--on-nan skip"):
        go(tmp_path, data, evals={"dev": scripted(0.9, 0.5, 0.3)}, **arguments)
    manager = Checkpoints(tmp_path / "checkpoints")
    assert manager.positions() == [2, 8], "the best one stays"
    assert manager.meta(8)["step"] == 7
    manager.close()
    assert all(np.isfinite(x).all() for x in saved(tmp_path, 8).values())
    fitted = go(tmp_path, data, evals={"dev": scripted(0.4, 0.2, 0.1)}, on_nan="skip", **arguments)
    assert fitted.position == 2
    assert [line["step"] for line in fitted.log if "dev/f1" in line] == [2, 4, 6, 8, 10, 12]


def test_a_step_that_is_not_finite_may_be_skipped(tmp_path):
    fitted = go(tmp_path, Data(7, poison), on_nan="skip", evals=None)
    assert saved(tmp_path, 12)["step"] == 11
    assert all(np.isfinite(x).all() for x in fitted.model.params.values())
    skipped = {line["step"]: line.get("skipped") for line in fitted.log}
    assert skipped == {4: None, 8: 0.25, 12: None}
    by_step = {line["step"]: line["loss"] for line in fitted.log}
    assert by_step[8] is None
    assert by_step[12] > 0


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
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('toy', {__file__!r})\n"
        "toy = importlib.util.module_from_spec(spec); spec.loader.exec_module(toy)\n"
        f"toy.go({str(tmp_path)!r}, steps=10**6, evals=None, log_every=50, checkpoint_every=0)\n"
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
