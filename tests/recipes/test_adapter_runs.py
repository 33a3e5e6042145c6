"""Runs of adapters that have no export yet: written for peft, and merged."""

import json
import shutil

import numpy as np
import pytest
from drawn import drawn
from safetensors.numpy import load_file

import reward
import sft
from jaxllm import hf
from jaxllm.cli.convert import convert
from jaxllm.data.tokenizers import bpe
from jaxllm.models import decoder
from jaxllm.params import describe
from jaxllm.recipes.script import parse
from jaxllm.types import InputError

FLAGS = ("--steps", 2, "--max-length", 48, "--batch-size", 8, "--learning-rate", 0.01, "--log-to", "none",
         "--lora-rank", 2, "--chat-template", "chatml")  # fmt: skip
ASKED = [{"question": f"Is it {i}?", "answer": f"Yes, {i}."} for i in range(16)]
PAIRS = [{"question": f"Is it {i}?", "chosen": f"Yes, {i}.", "rejected": f"No, {i}."} for i in range(16)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base without a template, so that tokens are added to it."""
    folder = tmp_path_factory.mktemp("adapted")
    for name, rows in (("asked", ASKED), ("pairs", PAIRS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = bpe([text for row in ASKED for text in row.values()], 290)
    shape = decoder.Config(
        vocab_size=len(tokenizer), width=16, depth=2, heads=2, mlp_width=24, max_positions=64, tied=True
    )
    spec = describe(lambda rngs: decoder.Decoder(shape, rngs), decoder.SHARDING)
    hf.export(folder / "base", drawn(spec), shape, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.mark.parametrize("script", [sft, pytest.param(reward, marks=pytest.mark.slow)], ids=["sft", "reward"])
def test_what_a_run_cut_short_gives_is_what_it_exports_at_its_end(place, tmp_path, script, capsys):
    data = {sft: "asked.jsonl", reward: "pairs.jsonl"}[script]
    flags = ["--model", place / "base", "--dataset", place / data, "--out", tmp_path / "run", *FLAGS]
    script.main(parse(script.Config, [str(flag) for flag in flags]))
    run = tmp_path / "run"
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("hf", "adapter", "summary.json"))

    assert convert(str(run), tmp_path / "one", adapter=True) == ["the adapters that the run exported"]
    note = "the checkpoint of step 2: the run has no export"
    assert convert(str(bare), tmp_path / "other", adapter=True) == [note]
    assert note in convert(str(bare), tmp_path / "merged")
    for ours, theirs, name in (
        ("one", run / "adapter", "adapter_model.safetensors"),
        ("other", run / "adapter", "adapter_model.safetensors"),
        ("merged", run / "hf", "model.safetensors"),
    ):
        here, there = load_file(tmp_path / ours / name), load_file(theirs / name)
        assert here.keys() == there.keys()
        for key, x in here.items():
            np.testing.assert_array_equal(x, there[key], err_msg=f"{ours}: {key}")
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (run / "hf" / name).read_bytes(), name
    described = [
        json.loads((path / "adapter_config.json").read_text()) for path in (tmp_path / "other", run / "adapter")
    ]
    assert described[0] == described[1]
    if script is sft:
        refused(bare, place, tmp_path)


def refused(bare, place, tmp_path):
    for source, options, why in (
        (place / "base", {"adapter": True}, "is no run with adapters"),
        (bare, {"adapter": True, "dtype": "bfloat16"}, "--adapter with --dtype"),
        (bare, {"to": "run"}, "is a run already"),
    ):
        with pytest.raises(InputError, match=why):
            convert(str(source), tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
