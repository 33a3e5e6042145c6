"""Comparing losses: what is run, what comes of it, and the statistics."""

import csv
import json
import math

import numpy as np
import pytest
from data_rows import write_jsonl

import compare_losses as script
from jaxllm.recipes.script import parse
from jaxllm.report_card.checks import check_loss
from jaxllm.types import InputError

pytestmark = pytest.mark.slow

SHAPE = {"vocab_size": 300, "width": 8, "depth": 1, "heads": 2, "mlp_width": 8, "max_positions": 256, "tied": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    (place / "model.json").write_text(json.dumps(SHAPE))
    rows = [{"prompt": f"Is it {i}?", "chosen": f" Yes, {i}.", "rejected": f" No, {i + 1}."} for i in range(20)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def config(folder, *more):
    flags = ["--model", folder / "model.json", "--dataset", folder / "pairs.jsonl", "--vocab-size", 300,
             "--out", folder / "out", "--log-to", "none", "--steps", 2, "--samples", 3, "--sample-tokens", 4,
             "--no-export", *more]  # fmt: skip
    return parse(script.Config, [str(flag) for flag in flags])


def test_one_table_and_one_plot_of_all_runs_and_none_is_run_twice(folder):
    wanted = config(folder, "--losses", "sigmoid", "simpo", "--seeds", 0, 1, "--loss-args", "gamma=0.5")
    script.main(wanted)
    out = folder / "out"
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["loss"], row["seed"]) for row in rows] == [(x, s) for x in ("sigmoid", "simpo") for s in "01"]
    assert all(math.isfinite(float(row[name])) for row in rows for name in script.MEASURES)
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0].count("|") == len(script.MEASURES) + 2
    values = [float(row["samples/length"]) for row in rows[2:]]
    assert "{:.1f} ± {:.1f}".format(*script.interval(values)) in lines[3]
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    given = [json.loads((out / f"{name}-0" / "config.json").read_text())["config"] for name in ("sigmoid", "simpo")]
    assert [c["loss_args"] for c in given] == [[], ["gamma=0.5"]]
    before = (out / "sigmoid-0" / "metrics.jsonl").stat().st_mtime_ns
    script.main(wanted)
    assert (out / "sigmoid-0" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--losses", "sigmoid", "sigmoyd"], "did you mean 'sigmoid'"),
        (["--losses", "sigmoid", "tdpo"], "--reference live"),
        (["--loss", "ipo"], "--losses"),
        (["--loss-args", "betta=1"], "betta"),
        (["--samples", 0], "--samples 0"),
    ],
)
def test_whatever_is_wrong_is_wrong_before_the_first_run(folder, flags, named):
    with pytest.raises(InputError, match=named):
        script.settle(config(folder, *flags))


@pytest.mark.parametrize(
    ("rows", "flags", "named"),
    [
        ([{"prompt": "a", "chosen": " b", "rejected": " c"}] * 4, (), "4 pairs leave none to evaluate on at --holdout"),
        ([{"prompt": "a", "chosen": " b", "rejected": " c"}] * 20, ("--holdout", 0), "at --holdout 0"),
        ([{"prompt": "a", "completion": " b", "label": 1}] * 20, ("--losses", "kto"), "judged answers without rivals"),
    ],
)
def test_data_without_what_is_compared_is_refused_before_the_first_run(folder, tmp_path, rows, flags, named):
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(InputError, match=named):
        script.main(config(folder, "--dataset", path, "--out", tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


OWN = """
import jax.numpy as jnp
from jaxllm.losses import policy_loss

@policy_loss(reduction="sequence mean")
def mine(p, *, epsilon=0.2):
    return -jnp.tanh((p.ratio_BT - 1) / epsilon) * epsilon * p.advantages_BT
"""


def test_a_policy_loss_in_ones_own_file_is_trained_checked_and_compared(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(SHAPE))
    (tmp_path / "losses.py").write_text(OWN)
    write_jsonl(tmp_path / "sums.jsonl", ({"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(20)))
    own = f"{tmp_path / 'losses.py'}:mine"
    argv = [
        "--losses", "grpo", own, "--seeds", "0", "1", "--model", tmp_path / "model.json", "--tokenizer", "char",
        "--dataset", tmp_path / "sums.jsonl", "--out", tmp_path / "out", "--log-to", "none", "--steps", "2",
        "--max-length", "16", "--max-completion-length", "4", "--batch-size", "4", "--num-generations", "2",
        "--eval-prompts", "2", "--eval-generations", "2", "--reward", "format", "--reward-args", "pattern=[0-9]+.*",
        "--no-export", "--loss-args", "epsilon=0.3", "beta=0.1",
    ]  # fmt: skip
    argv = [str(word) for word in argv]
    assert script.flags_of(argv) is script.OnlineConfig
    script.main(parse(script.OnlineConfig, argv))
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["loss", "---", "grpo", own]
    assert lines[0].count("|") == len(script.ONLINE_MEASURES) + 2
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"] * 2
    assert all(math.isfinite(float(row[name])) for row in rows for name in script.ONLINE_MEASURES)
    assert not [line for line in check_loss(own, timed=False) if not line.passed]
    for flags, named in ((["--eval-generations", "0"], "pass@1"), (["--num-generations", "1"], "2 or more")):
        with pytest.raises(InputError, match=named):
            script.settle(parse(script.OnlineConfig, [*argv, *flags]))


def test_whose_flags_are_read_follows_from_the_losses():
    assert script.flags_of(["--losses", "sigmoid", "rloo", "--seeds", "0"]) is script.OnlineConfig
    assert script.flags_of(["--losses", "sigmoid", "no_such", "--out", "grpo"]) is script.Config
    assert script.flags_of(["--seeds", "0"]) is script.Config


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227)])
def test_an_interval_is_as_wide_as_students_t_says(degrees, quantile):
    values = np.random.default_rng(0).normal(size=degrees + 1)
    mean, half = script.interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert half == pytest.approx(quantile * values.std(ddof=1) / math.sqrt(degrees + 1), rel=1e-5)


def test_an_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [abs(m) <= half for m, half in (script.interval(rng.normal(size=3).tolist()) for _ in range(4000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
    assert script.interval([2.5]) == (2.5, 0.0)
