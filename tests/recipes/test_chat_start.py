"""A base model made ready for conversations: template, padding, longer embeddings, and what its export says."""

import json

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.packing import Example, collate
from jaxllm.distributed import mesh as meshes
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import bind, describe, materialize
from jaxllm.recipes.chat_start import ChatFlags, start_chat
from jaxllm.types import InputError

TEXTS = ["What is the class of what it does?", "Return what it was given, or nothing at all."]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def base(folder, *, tied, spare=0):
    """A base model on disk: its tokenizer has neither template nor padding."""
    tokenizer = tokenizers.bpe(TEXTS * 3, 287)
    config = Config(vocab_size=len(tokenizer) + spare, width=32, depth=1, heads=2, mlp_width=48, tied=tied)
    spec = describe(lambda rngs: Decoder(config, rngs), SHARDING)
    params = drawn(spec)
    hf.export(folder, params, config, tokenizer)
    return config, params


def load(begin, mesh=None):
    shardings = meshes.shardings(begin.model.graphdef.abstract, mesh or meshes.make_mesh(), begin.model.rules)
    return materialize(begin.model, shardings, 0)


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_lengthen_the_embeddings_and_the_export_loads_in_torch(tmp_path, tied):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, before = base(tmp_path / "base", tied=tied)
    begin = start_chat(ChatFlags(model=str(tmp_path / "base"), chat_template="chatml"), [], "")
    assert begin.config.vocab_size == config.vocab_size + 3 == len(begin.tokenizer)
    assert config.vocab_size % 2  # the mesh divides the new number alone
    params = load(begin, meshes.make_mesh("fsdp=4,tensor=2"))
    for name, axis in (("embeddings.tokens.embedding", 0), ("unembed.kernel", 1)):
        if name in before:
            old, new = np.split(np.asarray(params[name]), [config.vocab_size], axis)
            np.testing.assert_array_equal(old, before[name])
            np.testing.assert_allclose(
                new, np.broadcast_to(before[name].mean(axis, keepdims=True), new.shape), rtol=1e-5, atol=1e-8
            )
    for name in before.keys() - {"embeddings.tokens.embedding", "unembed.kernel"}:
        np.testing.assert_array_equal(np.asarray(params[name]), before[name])
    assert any("3 more, the mean of the" in note for note in begin.notes)

    out = tmp_path / "out"
    hf.export(out, params, begin.config, begin.tokenizer, source=begin.source, tokens=begin.tokens)
    there = AutoTokenizer.from_pretrained(out)
    names = {"eos_token_id": "<|im_end|>", "pad_token_id": "<|pad|>", "bos_token_id": "<|endoftext|>"}
    ids = {key: there.convert_tokens_to_ids(token) for key, token in names.items()}
    for name in ("config.json", "generation_config.json"):
        written = json.loads((out / name).read_text())
        assert {key: written[key] for key in ids} == ids
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(there)
    assert (there.eos_token, there.pad_token) == ("<|im_end|>", "<|pad|>")
    assert there.pad_token_id != there.eos_token_id
    assert there.chat_template == begin.tokenizer.chat_template
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert model.generation_config.eos_token_id == ids["eos_token_id"]
    tokens = there.apply_chat_template([{"role": "user", "content": "What?"}], return_dict=True)["input_ids"]
    example = Example(np.array(tokens), np.zeros(len(tokens)), np.ones(len(tokens)))
    ours = bind(begin.model.graphdef, params)
    hidden_BTD, _ = ours.hidden(jax.tree.map(np.asarray, collate([[example]], len(tokens), 1)))
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours.head(hidden_BTD)), theirs, atol=2e-5)


def test_spare_rows_are_used_before_the_embeddings_grow(tmp_path):
    config, before = base(tmp_path / "base", tied=True, spare=8)
    begin = start_chat(ChatFlags(model=str(tmp_path / "base")), [], "")
    assert begin.config.vocab_size == config.vocab_size
    np.testing.assert_array_equal(
        np.asarray(load(begin)["embeddings.tokens.embedding"]), before["embeddings.tokens.embedding"]
    )
    assert len(begin.tokenizer) < begin.config.vocab_size
    assert begin.notes[-2:] == (
        "chat template: plain, for the tokenizer has none (--chat-template)",
        "padding: <|pad|>, added (there was none)",
    )


def test_from_scratch_the_vocabulary_is_the_tokenizers(tmp_path):
    flags = ChatFlags(model="tiny", vocab_size=300, chat_template="chatml")
    begin = start_chat(flags, TEXTS * 3, "texts")
    assert begin.config.vocab_size == len(begin.tokenizer) == begin.tokenizer.convert_tokens_to_ids("<|pad|>") + 1
    assert begin.model.graphdef.abstract["embeddings.tokens.embedding"].shape[0] == len(begin.tokenizer)
    assert begin.model.load is None


def test_a_model_that_is_ready_stays_as_it_is(tmp_path):
    base(tmp_path / "base", tied=True)
    begin = start_chat(ChatFlags(model=str(tmp_path / "base"), chat_template="chatml"), [], "")
    hf.export(tmp_path / "chat", load(begin), begin.config, begin.tokenizer, source=begin.source, tokens=begin.tokens)
    again = start_chat(ChatFlags(model=str(tmp_path / "chat")), [], "")
    assert again.notes == ()
    assert again.tokens == begin.tokens
    assert again.config.vocab_size == begin.config.vocab_size


def test_a_tokenizer_without_an_end(tmp_path):
    base(tmp_path / "base", tied=True)
    path = tmp_path / "base" / "tokenizer_config.json"
    path.write_text(json.dumps({k: x for k, x in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(InputError, match="no end-of-text token"):
        start_chat(ChatFlags(model=str(tmp_path / "base")), [], "")


def test_end_tokens_of_the_checkpoint_are_those_of_samples_and_of_the_export(assets):
    folder = assets / "cases" / "eos_list_in_config" / "model"
    begin = start_chat(ChatFlags(model=str(folder), max_length=8), [], "")
    assert set(begin.special_tokens.ends) == {0, 2, 242}
    assert begin.tokens["eos_token_id"] == [*begin.special_tokens.ends]
