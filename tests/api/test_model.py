import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxllm
from jaxllm import hf
from jaxllm.types import InputError, value


@pytest.fixture(scope="module")
def model(llama):
    return jaxllm.load(str(llama))


def batch_of(model, text="What is 3 plus 4? It is 7."):
    return next(iter(jaxllm.text_batches([text], model, batch_size=1, max_length=64)))


def test_load_gives_parameters_tokenizer_and_configuration(model, llama):
    assert model.params["blocks.attn.q.kernel"].shape == (2, 32, 32)
    assert model.config.depth == 2
    assert model.tokenizer.eos_token_id is not None
    assert model.mesh.size == 1
    assert "parameters" in repr(model)


def test_what_a_checkpoint_is_decides_what_is_loaded(llama, bert):
    tagger = jaxllm.load(str(bert))
    assert tagger.config.labels == ("O", "B-person", "I-person")
    scorer = jaxllm.load(str(llama), task="scorer")
    assert "score.kernel" in scorer.params
    assert any("score" in note for note in scorer.notes), "a new head is told of"
    known = "tagger, lm, scorer, masked, classifier"
    with pytest.raises(InputError, match=f"task 'taggr': give one of {known}; did you mean tagger"):
        jaxllm.load(str(llama), task="taggr")


def test_a_tagger_starts_from_an_encoder(llama):
    with pytest.raises(InputError, match="tiny is a preset of decoders: a tagger starts from"):
        jaxllm.load("tiny", task="tagger", labels=["O", "B-x"])


def test_a_preset_takes_a_tokenizer_trained_on_texts(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = jaxllm.load("tiny", texts=["Some text to learn words from, and some more text."] * 20)
    assert model.params["embeddings.tokens.embedding"].shape[0] >= len(model.tokenizer)


def test_forward_passes_agree_with_each_other_and_differentiate(model):
    batch = batch_of(model)
    hidden_BTD, logits_BTV = jaxllm.hidden_states(model, batch), jaxllm.logits(model, batch)
    assert hidden_BTD.shape == (*batch.tokens_BT.shape, 32)
    assert logits_BTV.shape == (*batch.tokens_BT.shape, model.config.vocab_size)
    numpy = jax.tree.map(np.asarray, batch)
    np.testing.assert_array_equal(jaxllm.logits(model, numpy), logits_BTV)
    grads = jax.grad(lambda params: jnp.sum(jaxllm.logits(model, batch, params) ** 2))(model.params)
    assert float(jnp.abs(grads["blocks.mlp.up.kernel"]).max()) > 0


def test_adapters_change_nothing_at_first_and_merge_back(model):
    adapted, batch = jaxllm.add_lora(model, 2, targets=("q_proj", "v_proj")), batch_of(model)
    np.testing.assert_array_equal(jaxllm.logits(adapted, batch), jaxllm.logits(model, batch))
    moved = adapted.with_params({n: x + 0.1 for n, x in adapted.params.items() if n.endswith("lora_b")})
    assert float(jnp.abs(jaxllm.logits(moved, batch) - jaxllm.logits(model, batch)).max()) > 1e-3
    merged = jaxllm.merge_lora(moved)
    assert merged.params.keys() == model.params.keys()
    np.testing.assert_allclose(jaxllm.logits(merged, batch), jaxllm.logits(moved, batch), atol=1e-5)


def test_export_writes_what_was_loaded_bit_for_bit_and_adapters_beside_it(model, llama, tmp_path):
    jaxllm.export(model, tmp_path / "same")
    ours, theirs = load_file(tmp_path / "same" / "model.safetensors"), load_file(llama / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x)
    jaxllm.export(jaxllm.add_lora(model, 2), tmp_path / "adapted")
    assert (tmp_path / "adapted" / "adapter" / "adapter_model.safetensors").is_file()


def test_with_params_refuses_names_that_the_model_does_not_have(model):
    with pytest.raises(ValueError, match=r"no parameters called blocks\.attn\.z"):
        model.with_params({"blocks.attn.z": jnp.zeros(1)})


def test_a_mesh_shards_parameters_and_changes_no_logits(model, llama):
    sharded, batch = jaxllm.load(str(llama), mesh="data=2,fsdp=2,tensor=2"), batch_of(model)
    assert len(sharded.params["blocks.mlp.up.kernel"].sharding.device_set) == 8
    numpy = jax.tree.map(lambda x: np.repeat(np.asarray(x), 4, axis=0), batch)
    np.testing.assert_allclose(jaxllm.logits(sharded, numpy), jaxllm.logits(model, numpy), atol=1e-5)


def test_a_loss_of_a_programs_own_sees_the_model(model):
    @jaxllm.token_loss
    def squared(logits_NV, targets_N):
        return (1 - jnp.take_along_axis(jax.nn.softmax(logits_NV), targets_N[:, None], 1)[:, 0]) ** 2

    from jaxllm.params import bind

    metrics = squared(bind(model.graphdef, model.params), batch_of(model))
    assert 0 < float(value(metrics["loss"])) < 1


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(llama, tmp_path):
    folder = tmp_path / "added"
    shutil.copytree(llama, folder)
    tokenizer = hf.load_tokenizer(str(folder))
    tokenizer.add_tokens([f"<x{i}>" for i in range(60)])
    tokenizer.save_pretrained(folder)
    for how in ({}, {"chat_template": "plain"}):
        with pytest.raises(
            InputError, match=r"has 360 tokens, the model's vocabulary 300: its embeddings lack rows for"
        ):
            jaxllm.load(str(folder), **how)
    with pytest.raises(InputError, match=r"has 360 tokens, the model's vocabulary 300: use the model's own tokenizer"):
        jaxllm.load(str(llama), tokenizer=str(folder))
