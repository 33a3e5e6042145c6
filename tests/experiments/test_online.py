"""`experiments/online.py`, end to end: policy losses and preferences, going on within a round, and bad input."""

import json

import numpy as np
import pytest
from data_rows import write_jsonl
from safetensors.numpy import load_file

import online
from jaxllm.recipes.script import parse
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError

FLAGS = (
    "--model", "tiny", "--tokenizer", "char", "--max-length", "16", "--max-completion-length", "4", "--batch-size", "4",
    "--num-generations", "4", "--eval-prompts", "2", "--eval-generations", "2", "--log-every", "1", "--log-to", "none",
    "--reward", "exact+format:0.5", "--reward-args", "format.pattern=[0-9]+", "--eval-every", "0",
    "--checkpoint-every", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("online") / "sums.jsonl"
    write_jsonl(path, ({"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)))
    return path


def train(data, out, *flags):
    online.main(parse(online.Config, [*FLAGS, "--dataset", str(data), "--out", str(out), *flags]))
    return [line for line in read_jsonl(out / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_a_run_that_stopped_within_a_round_goes_on_bit_for_bit(data, tmp_path):
    rounds = (
        "--num-iterations", "2", "--steps-per-generation", "2", "--loss-args", "beta=0.1", "--schedule", "constant",
        "--warmup", "0",
    )  # fmt: skip
    whole = train(data, tmp_path / "whole", "--steps", "6", *rounds)
    train(data, tmp_path / "parts", "--steps", "3", *rounds)
    parts = train(data, tmp_path / "parts", "--steps", "6", *rounds)
    assert [line["step"] for line in parts] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(whole, parts, strict=True):
        assert [one[name] for name in ("loss", "grad_norm")] == [other[name] for name in ("loss", "grad_norm")]
    ours, theirs = (load_file(tmp_path / name / "hf" / "model.safetensors") for name in ("whole", "parts"))
    assert all(np.array_equal(ours[name], x) for name, x in theirs.items())
    assert {line["step"] for line in whole if "completions/mean_length" in line} == {1, 5}
    gaps = [line["sampling/sampling_logp_difference/max"] for line in whole if "completions/ended" in line]
    assert max(gaps) < 2e-5, "sampler and train step disagree"
    assert {"rewards/exact/mean", "rewards/format/mean"} <= whole[0].keys()
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert {"dev/accuracy", "dev/pass@1", "dev/pass@2"} <= summary["final"].keys()
    samples = read_jsonl(tmp_path / "whole" / "samples.jsonl")
    assert {line["step"] for line in samples} == {0, 6}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["rloo", "dpo"])
def test_other_losses_learn_from_what_is_sampled(data, tmp_path, loss):
    lines = train(data, tmp_path / "run", "--steps", "2", "--loss", loss, "--dynamic-sampling", "1")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(0 <= line["dynamic/resampled"] <= 1 for line in lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-generations", "1"], "--num-generations 1"), (["--temperature", "0"], "--temperature 0"),
        (["--loss", "cross_entropy"], "--loss cross_entropy"), (["--teacher", "x"], "--teacher x"),
        (["--max-completion-length", "16"], "leaves no room for a prompt"), (["--reward", "exat"], "--reward exat"),
        (["--reward-args", "exact.column=colour"], "'colour'"), (["--scale-rewards", "groups"], "--scale-rewards"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_training(data, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
