"""Reward models of every decoder family against `transformers`: scores, and files both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from decoder_cases import CASES, ONE_EACH
from safetensors.numpy import load_file, save_file

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.hf import export, open_model
from jaxllm.params import bind, materialize
from jaxllm.types import Batch, InputError

torch = pytest.importorskip("torch")

torch.set_num_threads(1)


def saved(name, folder, kind=transformers.AutoModelForSequenceClassification):
    model_type, fields = CASES[name]
    config = transformers.CONFIG_MAPPING[model_type](**fields, num_labels=1, attn_implementation="eager")
    torch.manual_seed(0)
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.ndim > 1 else 1.0))
    model.save_pretrained(folder)
    return model


def load(opened, seed=0):
    mesh = make_mesh("data=1", jax.devices()[:1])
    return materialize(opened.spec, shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules), seed)


def scores(opened, params, tokens_BT):
    B, T = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    batch = Batch(jnp.asarray(tokens_BT), None, None, jnp.ones((B, T), jnp.int32), positions_BT)
    model = bind(opened.spec.graphdef, params)
    return np.asarray(jax.jit(lambda: model.head(model.hidden(batch)[0][:, -1]))())[:, 0]


@pytest.mark.parametrize("name", ONE_EACH)
def test_scores_are_those_of_transformers_and_files_come_back_the_same(name, tmp_path):
    model = saved(name, tmp_path / "theirs")
    opened = open_model(str(tmp_path / "theirs"), "scorer")
    params = load(opened)
    tokens_BT = np.random.default_rng(0).integers(3, 67, (2, 17))
    model.config.pad_token_id = 0
    theirs = model(torch.tensor(tokens_BT)).logits[:, 0].detach().numpy()
    np.testing.assert_allclose(scores(opened, params, tokens_BT), theirs, rtol=0, atol=1e-4 * max(1, abs(theirs).max()))

    export(tmp_path / "ours", params, opened.config, None, source=opened)
    one, other = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    assert one.keys() == other.keys()
    assert all(np.array_equal(x, other[key]) for key, x in one.items())
    back, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert back.config.num_labels == 1


def test_a_language_model_becomes_a_reward_model_with_a_new_head(tmp_path):
    saved("llama-2", tmp_path, transformers.AutoModelForCausalLM)
    opened = open_model(str(tmp_path), "scorer")
    assert "score initialised: not in the file" in opened.notes
    assert "not read: lm_head.weight" in opened.notes
    params, language = load(opened), load(open_model(str(tmp_path), "lm"))
    assert params["score.kernel"].shape == (24, 1)
    for key in params.keys() - {"score.kernel"}:
        np.testing.assert_array_equal(params[key], language[key])


def test_without_a_source_the_config_says_whose_score_it_is(tmp_path):
    saved("qwen3", tmp_path / "theirs")
    opened = open_model(str(tmp_path / "theirs"), "scorer")
    export(tmp_path / "ours", load(opened), opened.config, None)
    again = open_model(str(tmp_path / "ours"), "scorer")
    assert again.config == opened.config
    assert again.hf_config["architectures"] == ["Qwen3ForSequenceClassification"]


@pytest.mark.parametrize("name", ["score.bias", "v_head.summary.weight"])
def test_other_heads_are_one_line(name, tmp_path):
    saved("llama-2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, name: np.zeros((1,), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"unexpected {name} \(1,\)"):
        open_model(str(tmp_path), "scorer")


def test_a_head_for_several_numbers_is_named(tmp_path):
    model_type, fields = CASES["llama-2"]
    config = transformers.CONFIG_MAPPING[model_type](**fields, num_labels=2)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    assert open_model(str(tmp_path)).task == "classifier"
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, "id2label": {"0": "reward"}, "label2id": None}))
    with pytest.raises(
        InputError, match=r"has no head for one number \(score.weight is \(2, 24\), wanted \(1, 24\)\), which a reward"
    ):
        open_model(str(tmp_path))
