"""A folder that is not this run's, is another process's or cannot be written: one line, status 2, nothing touched."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import pytest
import toy_run
from flax import nnx
from toy_run import Data, Toy, corpus, go, toy

from jaxllm.data.loader import Loader
from jaxllm.data.packing import make_plan
from jaxllm.params import describe
from jaxllm.recipes.script import input_errors
from jaxllm.run.folder import Run
from jaxllm.run.inputs import contents
from jaxllm.train.optim import OptimConfig
from jaxllm.types import InputError


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of three steps, with a checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "run"
    go(out, steps=3, evals=None)
    return out


def other_data():
    """The same examples in another order."""
    data, served = Data(), corpus()
    other = Loader(make_plan(served.plan.lengths, batch_size=18, multiple=16, seed=4), served.build)
    data.plan, data.iterate, data.fingerprint = other.plan, other.iterate, other.fingerprint
    return data


def wider():
    """The toy with one more array."""

    class Wider(Toy):
        def __init__(self, rngs):
            super().__init__(rngs, 0.5)
            self.more = nnx.Param(jnp.zeros((8, 8)))

    return describe(Wider, toy().rules)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": other_data}, "was trained on other data ("),
        ({"model": wider}, "is of another model: more is not there: give another --out"),
        ({"optimizer": lambda: OptimConfig(optimizer="lion")}, "is of another optimizer: "),
    ],
)
def test_a_checkpoint_of_another_model_optimizer_or_data(begun, capsys, changes, message):
    before = files(begun / "checkpoints")
    with pytest.raises(SystemExit) as stop, input_errors():
        go(begun, steps=6, evals=None, **{name: make() for name, make in changes.items()})
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"error: checkpoint 3 of {begun}/checkpoints ")
    assert message in error
    assert error.count("\n") == 1
    assert files(begun / "checkpoints") == before
    assert not (begun / "lock").exists()


def test_rows_of_a_data_file_that_changed(begun, tmp_path, capsys, monkeypatch):
    """Although the batches at which the fingerprint looks are the same."""
    out, data = tmp_path / "run", tmp_path / "d.jsonl"

    def run(**how):
        fields = {"dataset": str(data)}
        config = {"script": "toy", "config": fields, "contents": contents(types.SimpleNamespace(**fields))}
        monkeypatch.setattr(toy_run, "Run", lambda folder, _: Run(folder, config))
        return go(out, evals=None, **how)

    data.write_text("one")
    run(steps=3)
    os.utime(data, (1, 1))
    run(steps=4)
    data.write_text("two")
    with pytest.raises(InputError, match=rf"on other data \(the contents of --dataset {data} changed\): undo"):
        run(steps=6)


@pytest.mark.parametrize("below", ["a-file/run", "a-file"])
def test_a_folder_that_cannot_be_written(tmp_path, capsys, below):
    """Below a file, which holds for root too."""
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(SystemExit) as stop, input_errors():
        go(tmp_path / below)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"error: --out {tmp_path / below}: cannot write there (")
    assert error.count("\n") == 1
    assert (tmp_path / "a-file").read_text() == "x"


def test_two_runs_in_one_folder(tmp_path, capsys):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom jaxllm.run.lock import hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(SystemExit) as stop, input_errors():
                go(tmp_path)
        finally:
            other.kill()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"error: {tmp_path} is in use by process {other.pid} on {os.uname().nodename}: wait for it")
    assert error.count("\n") == 1
    assert [path.name for path in Path(tmp_path).iterdir()] == ["lock"]
