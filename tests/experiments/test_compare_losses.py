"""Comparing losses: what is run, what comes of it, and the statistics."""

import csv
import json
import math

import numpy as np
import pytest
from data_rows import write_jsonl

import compare_losses as script
from jaxllm.recipes.script import parse
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
