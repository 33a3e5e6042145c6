"""The preference script as its user meets it: small runs on eight devices, what they leave behind, and bad input."""

import gc
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from data_rows import write_jsonl

import preference as script
from jaxllm.recipes import reference
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError

pytestmark = pytest.mark.slow

SHAPE = {"vocab_size": 400, "width": 16, "depth": 1, "heads": 2, "mlp_width": 24, "max_positions": 256, "tied": True}
WORDS = ["red", "green", "blue", "round", "flat", "long", "short", "old", "new", "warm", "cold", "soft", "hard"]


def pairs(count):
    """Rows whose chosen answer repeats the word in question."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        right, wrong = rng.choice(WORDS, 2, replace=False)
        rows.append({"prompt": f"Is it {right}?", "chosen": f" Yes, it is {right}.", "rejected": f" It is {wrong}."})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, the description of a model, and a cache of its own."""
    folder = tmp_path_factory.mktemp("preference")
    rows = pairs(60)
    rows.insert(3, {**rows[0], "rejected": rows[0]["chosen"]})
    rows.insert(7, {**rows[0], "chosen": ""})
    write_jsonl(folder / "pairs.jsonl", rows)
    judged = [{"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
              for r in pairs(30) for side in ("chosen", "rejected")]  # fmt: skip
    write_jsonl(folder / "judged.jsonl", judged)
    (folder / "model.json").write_text(json.dumps(SHAPE))
    return folder


@pytest.fixture(scope="module")
def cache(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield place / "cache" / "jaxllm" / "references"


def run(place, out, *more, data="pairs.jsonl"):
    flags = ["--model", place / "model.json", "--dataset", place / data, "--vocab-size", 400, "--out", place / out,
             "--log-to", "none", "--log-every", 1, "--steps", 3, "--samples", 0, "--no-export", *more]  # fmt: skip
    script.main(parse(script.Config, [str(flag) for flag in flags]))
    return place / out


def test_the_parameters_of_the_reference_are_gone_when_training_begins(place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no run has scored these weights
    held, others = [], jax.live_arrays()  # of other tests, kept until the end of this one
    theirs = {id(x) for x in others}

    def live():
        gc.collect()
        return sum(x.nbytes for x in jax.live_arrays() if id(x) not in theirs)

    def fit(model, **_):
        held.append((live(), sum(4 * x.size for x in model.trained.values())))
        raise StopIteration

    def load(*arguments):
        loaded = load_start(*arguments)
        held.append((live(), 0))
        return loaded

    load_start = reference.load_start
    monkeypatch.setattr(reference, "load_start", load)
    monkeypatch.setattr(script, "fit", fit)
    with pytest.raises(StopIteration):
        run(place, "released", "--seed", 5)
    (loaded, _), (left, parameters) = held
    assert loaded >= parameters
    assert left < parameters / 10


def test_freezing_everything_is_refused_before_the_reference_computes(place, monkeypatch):
    monkeypatch.setattr(script, "Reference", lambda *_: pytest.fail("it computes"))
    with pytest.raises(InputError, match=r"--freeze \* leaves no parameter to train"):
        run(place, "frozen", "--freeze", "*")


def losses(folder):
    return [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def trained(place, cache):
    """A run with everything on."""
    return run(place, "a", "--loss", "sigmoid", "--samples", 5, "--sample-tokens", 6, "--export", "--eval-every", 2,
               "--best", "dev/rewards/accuracies:max")  # fmt: skip


def test_run_folder_is_whole(trained):
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.png", "checkpoints", "hf"):
        assert (trained / name).exists(), name
    assert (trained / "hf" / "chat_template.jinja").exists()
    lines = read_jsonl(trained / "metrics.jsonl")
    assert [line["step"] for line in lines if "dev/loss" in line] == [2, 3]
    assert {"rewards/accuracies", "rewards/margins", "logps/chosen"} <= lines[0].keys()
    summary = json.loads((trained / "summary.json").read_text())
    assert {"dev/loss", "dev/rewards/accuracies", "samples/kl", "samples/length"} <= summary["final"].keys()
    # DPO's reward is beta times the log-ratio.
    margin = summary["final"]["dev/rewards/margins"] / 0.1
    assert summary["final"]["dev/log_ratio_margin"] == pytest.approx(margin, abs=1e-4)
    assert summary["final"]["dev/log_ratio_accuracy"] == pytest.approx(summary["final"]["dev/rewards/accuracies"])
    assert 0 < summary["final"]["samples/length"] <= 6
    assert summary["dropped"]["train"] == {
        "chosen equals rejected": [f"{trained.parent}/pairs.jsonl, line 4"],
        "chosen is empty": [f"{trained.parent}/pairs.jsonl, line 8"],
    }
    lines = (trained.parent / "pairs.jsonl").read_text().splitlines()
    assert sum(summary["rows"].values()) == len(lines) - 2
    assert "dev/rewards/accuracies" in (trained / "hf" / "README.md").read_text()


def test_before_the_first_step_policy_and_reference_are_one(trained):
    first = read_jsonl(trained / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_a_finished_run_says_so(trained, place, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    run(place, "a", "--loss", "sigmoid", "--export", "--eval-every", 2, "--best", "dev/rewards/accuracies:max",
        "--log-to", "jsonl", "--samples", 5, "--sample-tokens", 6)  # fmt: skip
    assert "is finished (3 steps)" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_runs_share_a_reference_unless_what_it_reads_has_changed(trained, place, cache, capsys):
    names = lambda: {path.name for path in cache.iterdir()}
    first = names()
    assert len(first) == 2  # train and dev
    run(place, "b", "--loss", "ipo", "--learning-rate", 0.5, "--batch-size", 24, "--no-pack", "--log-to", "jsonl")
    assert names() == first
    assert len(re.findall("reference of (train|dev): from ", capsys.readouterr().out)) == 2
    run(place, "c", "--loss", "sigmoid", "--max-length", 9, "--log-to", "jsonl")
    assert len(names()) == 4
    out = capsys.readouterr().out
    assert re.search(r"train: cut to --max-length: \d+ chosen answers", out)
    assert "3 left out" not in out


def test_a_prompt_shared_or_repeated_and_a_reference_cached_or_live_give_the_same_losses(place, cache):
    same = ("--loss", "sigmoid", "--no-pack", "--learning-rate", 0.03, "--holdout", 0)
    shared = losses(run(place, "d", *same))
    repeated = losses(run(place, "e", *same, "--no-share-prompt"))
    live = losses(run(place, "f", *same, "--reference", "live"))
    assert abs(shared[-1] - shared[0]) > 0.01
    np.testing.assert_allclose(repeated, shared, atol=1e-5)
    np.testing.assert_allclose(live, shared, atol=1e-5)


def test_adapters_are_compared_with_their_base_cached_or_live(trained, place, cache):
    same = ("--model", trained, "--lora-rank", 2, "--learning-rate", 0.3, "--holdout", 0, "--loss", "sigmoid")
    cached = losses(run(place, "h", *same))
    live = losses(run(place, "i", *same, "--reference", "live"))
    assert cached[0] == pytest.approx(np.log(2), abs=1e-5)
    assert abs(cached[-1] - cached[0]) > 1e-4
    np.testing.assert_allclose(live, cached, atol=1e-5)


def test_judged_answers_with_kto_and_its_mismatched_answers(place, cache):
    before = len(list(cache.iterdir()))
    folder = run(place, "g", "--loss", "kto", "--learning-rate", 0.03, "--holdout", 0, data="judged.jsonl")
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert lines[-1]["loss"] != lines[0]["loss"]
    assert lines[-1]["kl"] >= 0
    assert len(list(cache.iterdir())) == before + 2  # own and mismatched answers


def test_a_run_whose_every_step_is_skipped_ends_and_says_so(place, cache, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\nfrom jaxllm.losses.preference import preference_loss\n"
        "@preference_loss\ndef broken(p, *, beta=0.1):\n    return jnp.log(p.delta_B - 1e9)\n"
    )
    folder = run(place, "skipped", "--loss", f"{tmp_path}/mine.py:broken", "--on-nan", "skip", "--export")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["skipped"] == 3
    assert summary["final"]["dev/loss"] is None
    assert "| dev/loss | not finite |" in (folder / "hf" / "README.md").read_text()


BAD = {
    "unknown loss": (["--loss", "sigmoyd"], "did you mean 'sigmoid'?"),
    "misspelt argument": (["--loss-args", "betta=1"], "did you mean 'beta'?"),
    "loss of tokens": (["--loss", "cross_entropy"], "experiments/sft.py"),
    "loss of rewards": (["--loss", "bradley_terry"], "experiments/reward.py"),
    "reference": (["--reference", "none"], "cached or live"),
    "distributions of a cached reference": (["--loss", "tdpo"], "--reference live"),
    "coupled in microbatches": (["--loss", "kto", "--microbatches", "2"], "--microbatches 2"),
    "coupled under pmap": (["--loss", "aot", "--strategy", "pmap"], "--strategy pmap"),
    "holdout": (["--holdout", "1"], "--holdout 1"),
    "cut": (["--cut", "middle"], "--cut middle"),
    "template": (["--chat-template", "nowhere.jinja"], "nowhere.jinja"),
    "length": (["--max-length", "2"], "the prompt fills --max-length 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_flags_are_one_line_and_status_2(case, place, cache, capsys):
    argv, named = BAD[case]
    argv = ["--loss", "sigmoid", *argv] if "--loss" not in argv else argv
    fails_with(named, lambda: run(place, "bad", *argv), place, capsys)


ROWS = {
    "pairs wanted": ([{"prompt": "a", "completion": "b", "label": True}], "use kto or apo_zero_unpaired"),
    "missing column": ([*pairs(2), {"prompt": "a", "rejected": "b"}], "line 3: it has no chosen"),
    "roles": (
        [{"prompt": [{"role": "assistant", "content": "a"}], "chosen": "b", "rejected": "c"}] * 2,
        "line 1: roles out of order (assistant, assistant): wanted user, found assistant; mend the row (2 of 2 "
        "rows are bad, above --max-bad-rows 0.05: 2 roles out of order:",
    ),
    "nothing to choose": ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "0.05: 1 chosen equals rejected"),
}


@pytest.mark.parametrize("case", ROWS)
def test_bad_rows_are_one_line_and_status_2(case, place, cache, tmp_path, capsys):
    rows, named = ROWS[case]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    fails_with(named, lambda: run(place, "bad", "--loss", "sigmoid", data=data), place, capsys)


def fails_with(named, go, place, capsys):
    with pytest.raises(SystemExit) as stop, input_errors():
        go()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert named in error
    assert not (place / "bad").exists()


def test_a_loss_of_ones_own_is_one_flag(place, cache, trained):
    """It is DPO where the data has no margins."""
    file = Path(script.__file__).parent / "custom_loss.py"
    out = run(place, "own", "--loss", f"{file}:margin", "--eval-every", 0)
    np.testing.assert_allclose(losses(out), losses(trained), rtol=1e-6)
