"""The benchmark's flags, and the work of each stage."""

import json

import pytest

import benchmark
from benchmark import Config
from jaxllm.types import InputError
from workloads import encoders, generation, pretraining
from workloads.work import OUT, Asked, Peer, Work


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(stage="sfd"), "--stage sfd"),
        (Config(against=("jax",)), "--against jax"),
        (Config(size="huge"), "--size huge"),
        (Config(rounds=0), "--rounds 0"),
        (Config(steps=-1), "--steps -1"),
        (Config(stage="ner", check=True), "compared for sft and dpo alone"),
        (Config(dataset=("a.txt",)), "with --stage all give STAGE=PATH"),
        (Config(stage="ner", model=("nre=a",)), "--model nre=a"),
    ],
)
def test_flags_that_cannot_be_are_named(config, message):
    with pytest.raises(InputError, match=message):
        benchmark.check(config)


def test_data_and_models_are_given_to_their_stage():
    config = Config(dataset=("ner=a", "sft=b"), model=("ner=m",))
    assert list(benchmark.check(config)) == list(benchmark.STAGES)
    assert [benchmark.asked_of(config, stage).dataset for stage in ("ner", "sft", "dpo")] == ["a", "b", ""]
    assert benchmark.asked_of(Config(stage="dpo", dataset=("c",)), "dpo").dataset == "c"


def test_untimed_steps_divide_the_run():
    assert Asked("small").schedule(60) == (60, 10)
    assert Asked("small", steps=4, untimed=2).schedule(60) == (4, 2)
    with pytest.raises(InputError, match="must divide"):
        Asked("small", steps=5, untimed=2).schedule(60)


def test_a_peer_that_is_not_installed_is_left_out():
    work = Work("", (), {"a": Peer("torch", ("no_such_package",), ()), "b": Peer("torch", ("jax",), ()),
                         "c": Peer("hf", ("jax",), ()), "d": Peer("torch", (), (), "no-such-tool")})  # fmt: skip
    chosen, lines = benchmark.peers_of(Config(against=("torch",)), work)
    assert list(chosen) == ["b"]
    assert lines == ["a is left out: no no_such_package here", "d is left out: no no-such-tool here"]


def test_the_tiny_size_of_generation_continues_groups_as_online_training_does(tmp_path):
    work = generation.prepare(Asked("tiny", batch_size=16), tmp_path)
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    assert [prompts.count(one) for one in prompts] == [8] * 16
    assert "--tokens 12 --rounds 50" in " ".join(work.ours)
    assert "--tokens 12 --rounds 50" in " ".join(work.peers["transformers"].command)


def test_both_sides_pretrain_one_model_on_one_text(tmp_path):
    (tmp_path / "t.txt").write_text("abc" * 1000)
    work = pretraining.prepare(Asked("large", str(tmp_path / "t.txt"), steps=6, batch_size=2), tmp_path)
    shape = json.loads((tmp_path / "model.json").read_text())
    assert (shape["width"], shape["depth"]) == (384, 6)
    theirs = work.peers["torch"].command
    given = lambda words, flag: words[words.index(flag) + 1]
    for flag, x in (("--width", "384"), ("--depth", "6"), ("--steps", "6"), ("--untimed-steps", "1"), ("--json", OUT)):
        assert given(theirs, flag) == x
    for flag, x in (("--log-every", "1"), ("--steps", "6"), ("--batch-size", "2"), ("--out", OUT)):
        assert given(work.ours, flag) == x
    other = pretraining.prepare(Asked("small", str(tmp_path / "t.txt"), model="tiny"), tmp_path)
    assert not other.peers, "the peer has no Llama"
    with pytest.raises(InputError, match="no such text file"):
        pretraining.prepare(Asked("small", "missing.txt"), tmp_path)


@pytest.mark.slow
def test_our_side_is_measured_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "out.json"
    benchmark.main(Config("pretrain", against=("none",), rounds=1, steps=4, untimed=2, batch_size=8, max_length=16,
                          json=path))  # fmt: skip
    report = json.loads(path.read_text())
    (stage,) = report["stages"]
    found, best = stage["rounds"][0]["jaxllm"], stage["best_matmul"][0]["jax"]
    assert found["tokens_per_s"] == pytest.approx(8 * 16 / found["step_s"], rel=0.05)
    assert 0 < found["flops_per_s"] < best
    assert found["start_s"] > found["compile_s"] > 0
    assert 0.1 < found["host_gib"] < 8
    assert {"cpu", "versions", "load"} <= report["machine"].keys()


@pytest.mark.parametrize(
    ("stage", "peer"), [("ner", "hf_ner.py"), ("classify", "hf_classify.py"), ("mlm", "hf_mlm.py")]
)
def test_encoders_start_from_one_model_on_both_sides(stage, peer, tmp_path):
    work = benchmark.STAGES[stage](Asked("small", steps=6, batch_size=4), tmp_path)
    given = lambda words, flag: words[words.index(flag) + 1]
    first, second = work.peers.values()
    assert second.command[: len(first.command)] == first.command, "the same with a flag more"
    for flag in ("--model", "--dataset", "--batch-size", "--dtype"):
        assert given(work.ours, flag) == given(first.command, flag), flag
    assert first.command[0].endswith(peer)
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["classify", "mlm"])
def test_the_trainer_runs_in_turn_with_our_side(stage, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(encoders.SIZES, "small", {"width": 32, "depth": 1, "heads": 2, "mlp_width": 64})
    monkeypatch.setattr(encoders, "VOCABULARY", 400)
    monkeypatch.setattr(benchmark, "best_matmul", lambda *_: ({"jax": 1e12, "torch": 1e12}, {"device": "a CPU"}))
    path = tmp_path / "out.json"
    benchmark.main(Config(stage, against=("hf",), rounds=1, steps=4, untimed=2, batch_size=8, max_length=32, json=path))
    (found,) = json.loads(path.read_text())["stages"][0]["rounds"]
    assert len(found) == 3
    assert all(0 < side["tokens_per_s"] < 1e6 and 0.1 < side["host_gib"] < 8 for side in found.values())


@pytest.mark.parametrize("steps", [2, 42, 60, 80, 120, 240, 300])
def test_the_steps_that_are_not_timed_divide_all(steps):
    found, untimed = Asked("small").schedule(steps)
    assert found == steps
    assert not steps % untimed
    assert 0 < untimed <= max(1, steps // 6)
