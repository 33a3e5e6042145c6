"""Decoders' checkpoints as they are found: config.json in older words, and files of other modules' names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from decoder_cases import BASE
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from jaxllm import hf
from jaxllm.hf.open import read_config
from jaxllm.params import bind, materialize
from jaxllm.types import Batch, InputError

torch = pytest.importorskip("torch")

torch.set_num_threads(1)
TOKENS = np.random.default_rng(0).integers(2, 67, (1, 40))
LLAMA, QWEN2 = ({"model_type": kind, **BASE, "num_key_value_heads": 3} for kind in ("llama", "qwen2"))
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"type": "yarn", "original_max_position_embeddings": 32}


def saved(folder, raw):
    """A checkpoint with this config.json as it is, and the model of `transformers`."""
    config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw), attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn_like(parameter) + (parameter.ndim == 1))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(raw))
    return model


def edit(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def logits(opened):
    here = SingleDeviceSharding(jax.devices()[0])
    params = materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, here), 0)
    tokens = jnp.asarray(TOKENS, jnp.int32)
    ones, positions = jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None]
    batch = Batch(tokens, tokens, ones.astype(jnp.float32), ones, positions)

    @jax.jit
    def run(params):
        model = bind(opened.spec.graphdef, params)
        return model.head(model.hidden(batch)[0])

    return np.asarray(run(params))


def assert_equal_logits(folder, model):
    opened = hf.open_model(str(folder), "lm")
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS)).logits.numpy()
    assert abs(theirs).max() > 1.5
    np.testing.assert_allclose(logits(opened), theirs, atol=1e-4, rtol=0)
    return opened


@pytest.mark.parametrize(
    "raw",
    [
        {**LLAMA, "rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
        {**LLAMA, "rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {**LLAMA, "rope_scaling": {"rope_type": "default", "factor": 1.0}},
        {name: x for name, x in LLAMA.items() if name not in ("num_key_value_heads", "head_dim")}
        | {"pretraining_tp": 2, "torch_dtype": "float32"},
        {**QWEN2, "rope_theta": 300.0, "rope_scaling": {**YARN, "factor": 4.0}},
        {**QWEN2, "rope_theta": 300.0, "rope_scaling": {**YARN, "factor": 2.0}},
        {**QWEN2, "sliding_window": 6, "use_sliding_window": False, "max_window_layers": 1},
        {**QWEN2, "sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1},
    ],
    ids=["linear", "llama3", "default", "first llama", "yarn", "yarn by another factor", "no windows", "windows"],
)
def test_older_words_of_config_json_mean_what_transformers_makes_of_them(raw, tmp_path):
    opened = assert_equal_logits(tmp_path, saved(tmp_path, raw))
    assert opened.notes in ([], ["config.json: no effect here: pretraining_tp"])


def test_what_older_words_say():
    read = lambda **raw: read_config({**LLAMA, **raw}, "config.json", "lm")[0]
    for word in ("type", "rope_type"):
        scaling = read(rope_scaling={word: "llama3", **LLAMA3}).rope_scaling
        assert (scaling.kind, scaling.factor) == ("llama3", 4.0)
    assert read().rope_base == 10_000.0
    with pytest.raises(InputError, match="rope_parameters has factor, not supported for default"):
        read(rope_scaling={"rope_type": "default", "factor": 2.0})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic', supported"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}, "longrope"),
        ({"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu', supported"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantization_config is set"),
    ],
)
def test_what_is_not_supported_is_one_line(change, words):
    with pytest.raises(InputError, match=words) as error:
        read_config({**LLAMA, **change}, "config.json", "lm")
    assert "\n" not in str(error.value)


def bare(tensors):
    """The tensors of the trunk alone, without its prefix, and the buffers of older versions."""
    buffers = {f"layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32) for i in range(2)}
    return {name.removeprefix("model."): x for name, x in tensors.items() if name != "lm_head.weight"} | buffers


def test_a_trunk_is_a_language_model_where_the_head_is_tied(tmp_path):
    model = saved(tmp_path, {**LLAMA, "tie_word_embeddings": True})
    edit(tmp_path, bare)
    opened = assert_equal_logits(tmp_path, model)
    (note,) = opened.notes
    assert note.startswith("not read: layers.0.self_attn.rotary_emb.inv_freq")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bare, r"missing lm_head\.weight \(67, 24\)"),
        (lambda x: {**x, "model.embed_tokens.weight": np.zeros((70, 24), np.float32)},
         r"model\.embed_tokens\.weight is \(70, 24\), wanted \(67, 24\)"),
        (lambda x: {**x, "v_head.summary.weight": np.zeros((1, 24), np.float32)}, r"unexpected v_head\.summary\.weig"),
    ],
    ids=["no head", "another vocabulary", "a value head"],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_one_line(change, words, tmp_path):
    saved(tmp_path, LLAMA)
    edit(tmp_path, change)
    with pytest.raises(InputError, match=words) as error:
        hf.open_model(str(tmp_path), "lm")
    assert "\n" not in str(error.value)


def test_a_folder_of_the_trainer_is_none_of_a_model(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    saved(tmp_path / "checkpoint-10", LLAMA)
    with pytest.raises(InputError, match=r"config\.json is not there") as error:
        hf.open_model(str(tmp_path), "lm")
    assert "\n" not in str(error.value)
