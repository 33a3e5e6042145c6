import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from jaxllm.data.text.token_cache import plain_encoder
from jaxllm.types import InputError


@pytest.fixture(scope="module")
def model(llama):
    return jaxllm.load(str(llama))


def test_generate_continues_each_prompt(model):
    texts = jaxllm.generate(model, ["What is", "It is 3"], max_tokens=4)
    assert len(texts) == 2
    assert texts == jaxllm.generate(model, ["What is", "It is 3"], max_tokens=4), "greedy is deterministic"


def test_nothing_in_nothing_out(model, bert):
    assert jaxllm.generate(model, []) == []
    assert jaxllm.tag(jaxllm.load(str(bert)), ["", " "]) == [[], []]
    assert jaxllm.tag(jaxllm.load(str(bert)), []) == []
    assert jaxllm.generate(model, ["What is", "It"], max_tokens=0) == ["", ""]


def test_logprobs_of_an_empty_text_are_one_line(model):
    with pytest.raises(InputError, match="a text of 0 tokens: give 1 to 128"):
        jaxllm.logprobs(model, ["What is", ""])


def test_logprobs_are_those_of_the_logits(model):
    text = "What is 3 plus 4?"
    found = jaxllm.logprobs(model, [text, "It is 7."])
    batch = next(iter(jaxllm.text_batches([text], model, batch_size=1, max_length=64)))
    logits_TV = np.asarray(jaxllm.logits(model, batch), np.float64)[0]
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    logps_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    expected = [logps_TV[t, token] for t, token in enumerate(ids)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_score_is_the_sum_over_the_answer_and_a_reward_models_number(model, llama):
    found = jaxllm.score(model, ["What is 1 plus 1?"] * 2, ["2", "It is 3."])
    assert found.shape == (2,)
    assert (found < 0).all()
    new = jaxllm.load(str(llama), task="scorer")
    with pytest.raises(InputError, match=r"head of this model is untrained \(score.kernel initialised\); train it, or"):
        jaxllm.score(new, ["What is 1 plus 1?"], ["2"])
    trained = new.with_params({"score.kernel": new.params["score.kernel"]})
    rewards = jaxllm.score(trained, ["What is 1 plus 1?"], ["2"])
    assert rewards.shape == (1,)
    assert np.isfinite(rewards).all()


def test_score_of_nothing_and_of_too_much(model):
    assert jaxllm.score(model, [], []).shape == (0,)
    assert jaxllm.logprobs(model, []) == []
    with pytest.raises(InputError, match=r"answer 1: with its prompt \d+ tokens, the model has 128 positions; shorten"):
        jaxllm.score(model, ["What is", "What is 1 plus 1? " * 200], ["2", "2"])
    with pytest.raises(InputError, match="2 prompts and 1 answers: give an answer for each prompt"):
        jaxllm.score(model, ["What is"] * 2, ["2"])


def test_a_model_of_another_task_is_one_line(model, llama, bert):
    with pytest.raises(InputError, match="this is a reward model: give a language model"):
        jaxllm.generate(jaxllm.load(str(llama), task="scorer"), ["a"])
    with pytest.raises(InputError, match="this is a language model: give a token classifier"):
        jaxllm.tag(model, ["a"])
    with pytest.raises(InputError, match="this is a token classifier: give a reward model or a language model"):
        jaxllm.score(jaxllm.load(str(bert)), ["a"], ["b"])


def test_a_text_that_spells_a_special_token_is_text(model):
    text = "What <|endoftext|> is"
    ids = plain_encoder(model.tokenizer).encode(text, add_special_tokens=False).ids
    assert 0 not in ids
    tokens = next(iter(jaxllm.text_batches([text], model, batch_size=1, max_length=100))).tokens_BT
    assert np.asarray(tokens)[0, 1 : len(ids) + 1].tolist() == ids
    assert len(jaxllm.logprobs(model, [text])[0]) == len(ids)


def test_a_reward_is_that_of_the_last_token_that_is_no_padding_as_in_transformers(llama, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = jaxllm.load(str(llama), task="scorer")
    shape = model.params["score.kernel"].shape
    model = model.with_params({"score.kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)})
    jaxllm.export(model, tmp_path / "rm")
    path = tmp_path / "rm" / "config.json"
    (tmp_path / "rm" / "chat_template.jinja").unlink()
    rewards = []
    for pad in (model.tokenizer.eos_token_id, 5):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": pad}))
        ids = [*model.tokenizer("What is 1 plus 1? It is 2.")["input_ids"], model.tokenizer.eos_token_id]
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0, 0].item()
        rewards += jaxllm.score(jaxllm.load(str(tmp_path / "rm")), ["What is 1 plus 1?"], [" It is 2."]).tolist()
        np.testing.assert_allclose(rewards[-1], wanted, atol=1e-4)
    assert abs(rewards[0] - rewards[1]) > 1e-3


def test_a_reward_is_that_of_the_last_token_of_the_rendered_conversation(llama, tmp_path):
    """Which is the line break of a template that ends turns with an end token and a line break."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = jaxllm.load(str(llama), task="scorer")
    shape = model.params["score.kernel"].shape
    model = model.with_params({"score.kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)})
    jaxllm.export(model, tmp_path / "rm")
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\n' }}{% endfor %}"
    (tmp_path / "rm" / "chat_template.jinja").write_text(template)
    read = jaxllm.load(str(tmp_path / "rm"))
    chat = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "It is 2."}]
    ids = read.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert read.tokenizer.decode(ids[-2:]) == read.tokenizer.eos_token + "\n"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    with torch.no_grad():
        wanted, before = (theirs(torch.tensor([row])).logits[0, 0].item() for row in (ids, ids[:-1]))
    found = jaxllm.score(read, ["What is 1 plus 1?"], ["It is 2."])
    np.testing.assert_allclose(found, [wanted], atol=1e-4)
    assert abs(wanted - before) > 1e-3


def test_tag_finds_whole_words(bert):
    model = jaxllm.load(str(bert))
    text = "Ada Lovelace met Alan Turing in London"
    for entity in jaxllm.tag(model, [text])[0]:
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert entity["entity_group"] == "person"
        assert not text[entity["end"] : entity["end"] + 1].isalnum()
