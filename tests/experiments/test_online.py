"""`experiments/online.py`, end to end: policy losses and preferences, going on within a round, and bad input."""

import json

import numpy as np
import pytest
from data_rows import write_jsonl
from safetensors.numpy import load_file

import online
from jaxllm import hf
from jaxllm.distributed.mesh import make_mesh
from jaxllm.recipes.script import parse
from jaxllm.recipes.weights import load_params
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


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The export of a run of RLOO, and its log."""
    out = tmp_path_factory.mktemp("rloo") / "run"
    return out / "hf", train(data, out, "--steps", "2", "--loss", "rloo", "--dynamic-sampling", "1")


def differences(lines):
    """By how much sampler and train step differ in each round, in nats."""
    return [line["sampling/sampling_logp_difference/mean"] for line in lines if "completions/ended" in line]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["rloo", "dpo"])
def test_other_losses_learn_from_what_is_sampled(data, trained, tmp_path, loss):
    flags = ["--steps", "2", "--loss", loss, "--dynamic-sampling", "1", "--temperature", "0.7"]
    lines = trained[1] if loss == "rloo" else train(data, tmp_path / "run", *flags)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(0 <= line["dynamic/resampled"] <= 1 for line in lines)
    assert len(differences(lines)) == 2
    assert max(differences(lines)) < 2e-5, "sampler and train step disagree"


@pytest.mark.slow
def test_a_teacher_is_learned_from_on_sampled_completions(data, trained, tmp_path):
    flags = ["--loss", "jsd", "--teacher", str(trained[0]), "--tokenizer", str(trained[0]), "--temperature", "0.7"]
    # At this temperature a distribution is sampled, not the one that is learned.
    lines = train(data, tmp_path / "run", *flags, "--steps", "6", "--num-generations", "1", "--learning-rate", "1e-3",
                  "--seed", "1")  # fmt: skip
    assert len(differences(lines)) == 6
    assert max(differences(lines)) < 2e-5
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"], "it comes nearer to its teacher"
    assert not [name for name in load_file(tmp_path / "run" / "hf" / "model.safetensors") if "teacher" in name]


@pytest.fixture(scope="module")
def judge(trained):
    """A reward model with a head that is drawn."""
    found, tokenizer = hf.open_model(str(trained[0]), "scorer"), hf.load_tokenizer(str(trained[0]))
    folder = trained[0].parent / "judge"
    hf.export(folder, load_params(found.spec, make_mesh("fsdp=8")), found.config, tokenizer, source=found)
    return folder


@pytest.mark.slow
def test_adapters_are_trained_at_a_temperature_with_kl_in_the_reward_and_in_the_loss(data, trained, judge, tmp_path):
    rewards = ["--reward", "exact+model:0.5", "--reward-args", f"path={judge}", "--mesh", "fsdp=4,tensor=2"]
    model = [
        *rewards,
        "--model",
        str(trained[0]),
        "--tokenizer",
        str(trained[0]),
        "--lora-rank",
        "2",
        "--learning-rate",
        "1e-2",
    ]
    kl = ["--reward-kl", "0.1", "--reward-kl-estimator", "k3", "--loss-args", "beta=0.1", "kl_estimator=k2"]
    lines = train(data, tmp_path / "run", *model, *kl, "--temperature", "0.7", "--steps", "3", "--num-iterations", "2")
    assert lines[0]["kl"] < 1e-9, "adapters begin at zero, so the first policy is the reference"
    assert lines[2]["kl"] > 1e-6
    assert all(line["rewards/model/std"] > 1e-4 for line in lines if "completions/ended" in line)
    assert max(differences(lines)) < 2e-5, "both are at the temperature"
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    before, after = (
        load_file(trained[0] / "model.safetensors"),
        load_file(tmp_path / "run" / "hf" / "model.safetensors"),
    )
    changed = {name for name, x in after.items() if not np.array_equal(x, before[name])}
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-generations", "1"], "--num-generations 1"), (["--temperature", "0"], "--temperature 0"),
        (["--loss", "cross_entropy"], "--loss cross_entropy"), (["--teacher", "x"], "--teacher x"),
        (["--max-completion-length", "16"], "leaves no room for a prompt"), (["--reward", "exat"], "--reward exat"),
        (["--reward-args", "exact.column=colour"], "'colour'"), (["--scale-rewards", "groups"], "--scale-rewards"),
        (["--reward-kl", "1", "--loss", "dpo"], "has no advantages"), (["--pairs", "all"], "makes no pairs"),
        (["--reward-kl-estimator", "k4"], "--reward-kl-estimator k4"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_training(data, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
