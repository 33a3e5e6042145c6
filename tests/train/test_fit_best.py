"""The best step, early stopping, and losses that are not finite."""

import numpy as np
import pytest
from toy_run import Data, dev_loss, go, poison, saved, scripted, terminate, toy

from jaxllm.checkpoint.store import Checkpoints, read_params
from jaxllm.train.fit import Terminated


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
    with pytest.raises(FloatingPointError, match=r"step 7 is not finite.*--on-nan skip"):
        go(tmp_path, data, evals={"dev": scripted(0.9, 0.5, 0.3)}, **arguments)
    manager = Checkpoints(tmp_path / "checkpoints")
    assert manager.positions() == [2, 8], "the best one stays"
    assert manager.meta(8)["step"] == 7
    manager.close()
    assert all(np.isfinite(x).all() for x in saved(tmp_path, 8).values())
    fitted = go(tmp_path, data, evals={"dev": scripted(0.4, 0.2, 0.1)}, on_nan="skip", **arguments)
    assert fitted.position == 2
    assert [line["step"] for line in fitted.log if "dev/f1" in line] == [2, 4, 6, 8, 10, 12]


def test_a_step_that_is_not_finite_may_be_skipped(tmp_path, capsys):
    best = {"evals": {"dev": dev_loss}, "eval_every": 4, "best": "dev/loss:min"}
    fitted = go(tmp_path, Data(7, poison), on_nan="skip", log_to=("terminal",), **best)
    assert saved(tmp_path, 12)["step"] == 11
    assert all(np.isfinite(x).all() for x in fitted.model.params.values())
    trained = {line["step"]: line for line in fitted.log if "loss" in line}
    assert {step: line.get("skipped") for step, line in trained.items()} == {4: None, 8: 0.25, 12: None}
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in trained.values())
    scores = {line["step"]: line["dev/loss"] for line in fitted.log if "dev/loss" in line}
    assert np.isfinite([*scores.values()]).all()
    assert fitted.position == min(scores, key=scores.get)
    said = capsys.readouterr().out
    assert f"loss {trained[8]['loss']:.4f}, 1 of 4 steps skipped" in said
    assert ["nan" in line for line in said.splitlines()] == ["not finite" in line for line in said.splitlines()]
