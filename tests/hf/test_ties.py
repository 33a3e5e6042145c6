"""Heads that config.json ties: equal copies, heads of their own, and files with the head alone, as `transformers`."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from jaxllm import hf
from jaxllm.evals.generate import generate
from jaxllm.params import materialize
from jaxllm.types import InputError

KINDS = {
    "model": "model.embed_tokens",
    "gemma": "model.embed_tokens",
    "gpt2": "transformer.wte",
    "qwen2": "model.embed_tokens",
}
PROMPT = [5, 9, 30, 77]


def load(folder):
    opened = hf.open_model(str(folder), "lm")
    here = SingleDeviceSharding(jax.devices()[0])
    return opened, materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, here), 0)


@pytest.fixture
def case(assets, tmp_path):
    """case(kind, change) -> a copy of a folder whose tied head differs, with its tensors changed."""

    def make(kind, change=None):
        folder = tmp_path / kind
        shutil.copytree(assets / "cases" / "tied_but_own_head" / kind, folder)
        if change:
            tensors = load_file(folder / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def theirs(folder):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, eos_token_id=None)[0, 4:].tolist()


def test_a_head_that_differs_gives_the_tokens_of_transformers(case):
    opened, params = load(case("model"))
    found = generate(opened.spec.graphdef, params, [PROMPT], max_tokens=12)[0]
    assert found == [94, 224, 378, 180, 387, 298, 109, 377, 269, 98, 296, 164]


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_the_file_is_used_and_exported(kind, case, tmp_path):
    folder = case(kind)
    opened, params = load(folder)
    tensors = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(params["unembed.kernel"].T, tensors["lm_head.weight"])
    table = f"{KINDS[kind]}.weight"
    assert opened.notes == [
        f"lm_head.weight differs from {table}: a head of its own, although config.json says tie_word_embeddings"
    ]
    hf.export(tmp_path / "out", params, opened.config, None, source=opened)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    wrote = load_file(tmp_path / "out" / "model.safetensors")
    assert wrote.keys() == tensors.keys()
    assert all(np.array_equal(x, wrote[name]) for name, x in tensors.items())
    found = generate(opened.spec.graphdef, params, [PROMPT], max_tokens=8)[0]
    assert found == theirs(folder) == theirs(tmp_path / "out")


@pytest.mark.parametrize("kind", ["model", "gpt2"])
def test_an_equal_copy_is_passed_over_and_a_head_alone_is_the_table(kind, case, tmp_path):
    table = f"{KINDS[kind]}.weight"
    copied = case(kind, lambda x: x.update({"lm_head.weight": x[table].copy()}))
    opened, params = load(copied)
    assert opened.notes == ["not read: lm_head.weight"]
    assert "unembed.kernel" not in params
    shutil.rmtree(copied)
    alone = case(kind, lambda x: x.update({"lm_head.weight": x.pop(table)}))
    _, found = load(alone)
    assert all(np.array_equal(x, found[name]) for name, x in params.items())
    assert generate(opened.spec.graphdef, found, [PROMPT], max_tokens=8)[0] == theirs(alone)


def test_a_head_of_another_shape_is_named(case):
    folder = case("model", lambda x: x.update({"lm_head.weight": x["lm_head.weight"][:-1]}))
    with pytest.raises(InputError, match=r"lm_head.weight is \(399, 32\), wanted \(400, 32\)"):
        load(folder)


def test_the_prefix_of_compiled_modules_is_left_out(case):
    folder = case("model")
    _, wanted = load(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"_orig_mod.{n}": x for n, x in tensors.items()}, folder / "model.safetensors")
    _, found = load(folder)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(x, found[name]) for name, x in wanted.items())


def test_convert_says_what_it_did_not_compare(case, tmp_path, command, capsys):
    command("convert", case("qwen2"), tmp_path / "one", "--check")
    assert capsys.readouterr().out.endswith("every one bit-equal to the source's\n")
    folder = case("model", lambda x: x.update({"lm_head.weight": x["model.embed_tokens.weight"].copy()}))
    command("convert", folder, tmp_path / "two", "--check")
    assert capsys.readouterr().out.endswith("every one bit-equal to the source's; not read: lm_head.weight\n")
