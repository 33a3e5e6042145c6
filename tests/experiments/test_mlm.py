"""The masked-language-model script: a small run on eight devices, its export, what goes on from it, and bad input."""

import json
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import mlm as script
import ner
from jaxllm.cli import convert
from jaxllm.data import tokenizers
from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.mlm import fill
from jaxllm.recipes.script import input_errors, parse
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.forward import Runner

FAST = ("--log-to", "none", "--log-every", "1", "--vocab-size", "500", "--max-length", "64", "--batch-size", "8")
WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "on",
    "a",
    "mat",
    "red",
    "blue",
    "tree",
    "house",
    "ran",
    "jumped",
    "over",
    "under",
    "river",
    "stone",
]


def run(*argv):
    script.main(parse(script.Config, [str(a) for a in argv]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS, rng.integers(4, 40)))} for _ in range(120)]
    path = tmp_path_factory.mktemp("data") / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", autouse=True)
def _shallow():
    with mock.patch.dict(script.PRESETS["tiny"], depth=2):
        yield


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    run("--dataset", data, "--steps", 4, "--mesh", "fsdp=4,tensor=2", "--out", out, *FAST)
    return out


def test_the_run_is_whole(trained):
    losses = [line["loss"] for line in read_jsonl(trained / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    summary = json.loads((trained / "summary.json").read_text())
    final = summary["final"]
    assert 2 < summary["frequency_loss"] < np.log(500), "what all tokens of the vocabulary alike would cost"
    assert final["dev/pseudo_perplexity"] == pytest.approx(np.exp(final["dev/loss"]))


def test_one_device_trains_the_same(trained, data, tmp_path):
    one = jax.devices()[:1]
    with mock.patch("jaxllm.recipes.session.make_mesh", lambda text: make_mesh(text, one)):
        run("--dataset", data, "--steps", 4, "--out", tmp_path / "b", *FAST)
    a, b = ([x["loss"] for x in read_jsonl(f / "metrics.jsonl") if "loss" in x] for f in (trained, tmp_path / "b"))
    # The first step's dropout is that of the mesh's own key, and so the same.
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_export_fills_masks_as_the_pipeline_does(trained):
    pytest.importorskip("torch")
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    model, info = AutoModelForMaskedLM.from_pretrained(trained / "hf", output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    opened = open_weights(str(trained))
    assert (opened.task, opened.notes) == ("masked", [])
    mesh = make_mesh()
    runner = Runner(opened.spec.graphdef, load_params(opened.spec, mesh), mesh)
    texts = ["the [MASK] sat on a mat", "[MASK] river ran"]
    wanted = pipeline("fill-mask", model=model, tokenizer=tokenizer)(texts)
    for ours, theirs in zip(fill(runner, tokenizer, texts), wanted, strict=True):
        assert [token for token, _ in ours] == [x["token_str"].strip() for x in theirs]
        np.testing.assert_allclose([p for _, p in ours], [x["score"] for x in theirs], atol=1e-5)


def test_the_tagger_goes_on_from_it(trained, tmp_path):
    rows = "the\tO\ncat\tB-animal\n\na\tO\ndog\tB-animal\n\n" * 20
    (tmp_path / "train.conll").write_text(rows)
    (tmp_path / "dev.conll").write_text(rows)
    flags = ("--steps", "1", "--log-to", "none", "--freeze", "!classifier.*", "--out", str(tmp_path / "run"))
    ner.main(parse(ner.Config, ["--model", str(trained), "--dataset", str(tmp_path), *flags]))
    before, after = (load_file(f / "hf" / "model.safetensors") for f in (trained, tmp_path / "run"))
    assert before.keys() - after.keys() == {"decoder.bias"}, "the tagger leaves the vocabulary's bias out"
    for name in before.keys() & after.keys():  # ModernBERT's own transform of the head goes along
        np.testing.assert_array_equal(before[name], after[name])


def test_convert_gives_every_tensor_back(trained, tmp_path, capsys):
    convert.main(convert.Config(str(trained), str(tmp_path / "out"), check=True))
    assert "every one bit-equal" in capsys.readouterr().out


def test_a_run_goes_on_bit_for_bit(data, tmp_path):
    flags = ("--dataset", data, "--schedule", "constant", "--warmup", 0, *FAST)
    run(*flags, "--steps", 3, "--out", tmp_path / "whole")
    run(*flags, "--steps", 2, "--out", tmp_path / "parts")
    run(*flags, "--steps", 3, "--out", tmp_path / "parts")
    whole, parts = (load_file(tmp_path / x / "hf" / "model.safetensors") for x in ("whole", "parts"))
    for name, x in whole.items():
        np.testing.assert_array_equal(parts[name], x, err_msg=name)


def test_bad_input_is_one_line(data, tmp_path, llama, capsys):
    bare = tokenizers.bpe(["a b"], 300)
    bare.save_pretrained(tmp_path / "bare")
    for flags, named in (
        (("--mask-rate", "1.5"), "--mask-rate 1.5"),
        (("--random-replace-prob", "0.5"), "--random-replace-prob 0.5"),
        (("--tokenizer", tmp_path / "bare"), "no mask token"),
        (("--max-length", "4096"), "--max-length 4096"),
        (("--model", llama), "model_type is 'llama'"),
    ):
        with pytest.raises(SystemExit) as stop, input_errors():
            run("--dataset", data, "--steps", 1, "--out", tmp_path / "out", *FAST, *flags)
        error = capsys.readouterr().err
        assert (stop.value.code, error.count("\n")) == (2, 1)
        assert named in error
        assert not (tmp_path / "out").exists()
