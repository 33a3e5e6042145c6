"""Three stages in a row, from a small model on disk, and what is wrong before the first of them."""

import json

import jax
import pytest
from jax.sharding import SingleDeviceSharding

import pretrain
import three_stages as script
from jaxllm import hf
from jaxllm.data.tokenizers import bpe
from jaxllm.models import decoder
from jaxllm.params import describe, materialize
from jaxllm.recipes.script import input_errors, parse

WORDS = ("red", "green", "blue", "round", "flat", "long")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base model in a folder, and questions with answers."""
    folder = tmp_path_factory.mktemp("stages")
    rows = [{"question": f"Is {i} {w}?", "answer": f"Yes, {i} is {w}."} for i in range(12) for w in WORDS]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = bpe([f"{row['question']} {row['answer']}" for row in rows], 300)
    shape = decoder.Config(
        vocab_size=len(tokenizer), width=32, depth=1, heads=2, mlp_width=48, max_positions=128, tied=True
    )
    spec = describe(lambda rngs: decoder.Decoder(shape, rngs), decoder.SHARDING)
    at = dict.fromkeys(spec.graphdef.abstract, SingleDeviceSharding(jax.devices()[0]))
    hf.export(folder / "base", materialize(spec, at, 0), shape, tokenizer)
    return folder


def config(place, *more):
    flags = ["--model", place / "base", "--dataset", place / "asked.jsonl", "--out", place / "out", "--batch-size", 8,
             "--max-length", 48, "--questions", 5, "--answer-tokens", 12,
             "--sft-learning-rate", 1e-2, "--sft-epochs", 6, "--preference-learning-rate", 1e-3,
             "--preference-epochs", 2, *more]  # fmt: skip
    return parse(script.Config, [str(flag) for flag in flags])


@pytest.mark.slow
def test_the_base_continues_the_tuned_one_answers(place, capsys):
    script.main(config(place))
    told = json.loads((place / "out" / "stages.json").read_text())
    assert [*told] == ["pretrain", "sft", "preference"]
    assert told["pretrain"]["ended"] < 0.5
    assert told["sft"]["ended"] == told["preference"]["ended"] == 1.0
    assert told["sft"]["token_f1"] > told["pretrain"]["token_f1"] + 0.3
    assert told["preference"]["prefers"] > told["pretrain"]["prefers"]
    questions = [[question for question, _, _ in one["answers"]] for one in told.values()]
    assert len(questions[0]) == 5
    assert questions[0] == questions[1] == questions[2]
    said = capsys.readouterr().out
    for question, answer, _ in told["sft"]["answers"][:3]:
        assert question in said
        assert answer in said
    rows = [json.loads(line) for line in (place / "out" / "preferences" / "dev.jsonl").read_text().splitlines()]
    assert {row["prompt"][0]["content"] for row in rows} >= set(questions[0])
    assert all((place / "out" / stage / "hf" / "model.safetensors").is_file() for stage in ("sft", "preference"))


def test_each_stage_starts_from_the_one_before(tmp_path):
    flags = parse(script.Config, ["--out", str(tmp_path), "--seed", "3"])
    first, second, third = script.stages(flags, "builtin")
    assert first.main is pretrain.main
    assert (first.config.steps, first.config.dataset) == (flags.pretrain_steps, ("builtin",))
    assert second.config.model == first.folder == first.config.out
    assert third.config.model == second.folder == second.config.out
    assert {stage.config.seed for stage in (first, second, third)} == {3}
    assert (second.config.learning_rate, third.config.learning_rate) == (script.HERE["sft"], script.HERE["preference"])
    first, second, third = script.stages(parse(script.Config, ["--model", "base"]), "builtin")
    assert first.main is None
    assert second.config.model == "base"
    assert second.config.learning_rate is third.config.learning_rate is None


BAD = {
    "model": (["--model", "nowhere/at/all"], "nowhere/at/all"),
    "dataset": (["--dataset", "nowhere.jsonl"], "nowhere.jsonl"),
    "preferences": (["--preferences", "nowhere.jsonl"], "nowhere.jsonl"),
    "batch": (["--batch-size", 0], "--batch-size 0"),
    "length": (["--max-length", 4000], "--max-length 4000: the context of the model is 128"),
    "template": (["--chat-template", "nowhere.jinja"], "nowhere.jinja"),
    "loss": (["--loss", "sigmoyd"], "did you mean 'sigmoid'?"),
    "rate": (["--preference-learning-rate", -1], "--learning-rate -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_flags_are_one_line_before_the_first_stage(place, tmp_path, capsys, case):
    flags, named = BAD[case]
    with pytest.raises(SystemExit) as stop, input_errors():
        script.main(config(place, *flags, "--out", tmp_path / "out"))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_questions_of_one_answer_make_no_pairs(place, tmp_path):
    data = tmp_path / "same.jsonl"
    data.write_text("".join(json.dumps({"question": f"Is it {i}?", "answer": "Yes."}) + "\n" for i in range(30)))
    with pytest.raises(script.InputError, match="name some by --preferences"):
        script.main(config(place, "--dataset", data, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
