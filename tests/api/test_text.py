import numpy as np
import pytest

import jaxllm
from jaxllm.types import InputError


@pytest.fixture(scope="module")
def model(llama):
    return jaxllm.load(str(llama))


def test_generate_continues_each_prompt(model):
    texts = jaxllm.generate(model, ["What is", "It is 3"], max_tokens=4)
    assert len(texts) == 2
    assert texts == jaxllm.generate(model, ["What is", "It is 3"], max_tokens=4), "greedy is deterministic"


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
    rewards = jaxllm.score(jaxllm.load(str(llama), task="scorer"), ["What is 1 plus 1?"], ["2"])
    assert rewards.shape == (1,)
    assert np.isfinite(rewards).all()


def test_tag_finds_whole_words(bert):
    model = jaxllm.load(str(bert))
    text = "Ada Lovelace met Alan Turing in London"
    for entity in jaxllm.tag(model, [text])[0]:
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert entity["entity_group"] == "person"
        assert not text[entity["end"] : entity["end"] + 1].isalnum()


def test_a_model_of_another_kind_is_one_line(model, llama, bert):
    scorer, tagger = jaxllm.load(str(llama), task="scorer"), jaxllm.load(str(bert))
    calls = {
        "jaxllm.tag needs a token classifier, and this is a language model": lambda: jaxllm.tag(model, ["a"]),
        "jaxllm.generate needs a language model, and this is a reward model": lambda: jaxllm.generate(scorer, ["a"]),
        "jaxllm.generate needs a language model, and this is a token cl": lambda: jaxllm.generate(tagger, ["a"]),
        "jaxllm.logprobs needs a language model, and this is a reward model": lambda: jaxllm.logprobs(scorer, ["a"]),
        "jaxllm.score needs a language model or a reward model, and": lambda: jaxllm.score(tagger, ["a"], ["b"]),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()
