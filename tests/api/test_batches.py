import numpy as np
import pytest

import jaxllm
from jaxllm.types import InputError


@pytest.fixture(scope="module")
def model(llama):
    return jaxllm.load(str(llama))


def test_texts_are_cut_into_pieces_that_predict_every_token_once(model):
    text = "What is 3 plus 4? It is 7. " * 6
    batches = jaxllm.text_batches([text, "It is 3."], model, batch_size=100, max_length=16)
    batch = next(iter(batches))
    ids, end = model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id
    assert len(ids) > 32
    learnt = np.asarray(batch.targets_BT)[np.asarray(batch.weights_BT) > 0]
    short = model.tokenizer("It is 3.", add_special_tokens=False)["input_ids"]
    assert sorted(learnt) == sorted([*ids, end, *short, end])


def test_a_text_that_spells_a_special_token_is_text(model):
    end = model.tokenizer.eos_token_id
    text = f"the {model.tokenizer.eos_token} king"
    batch = next(iter(jaxllm.text_batches([text], model, batch_size=1, max_length=32)))
    learnt = np.asarray(batch.targets_BT)[np.asarray(batch.weights_BT) > 0]
    assert learnt.tolist().count(end) == 1
    (values,) = jaxllm.logprobs(model, [text])
    assert len(values) == len(learnt) - 1


def test_bad_rows_are_left_out_and_told(model):
    rows = [{"question": "What is 1 plus 1?", "answer": "2"}] * 19 + [{"question": "What is 1 plus 2?", "answer": ""}]
    batches = jaxllm.chat_batches(rows, model, batch_size=1, max_length=64)
    assert batches.notes[:2] == ("19 conversations", "1 left out, answer is empty: rows, row 20")


def test_answers_alone_are_learnt(model):
    rows = [{"messages": [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2"}]}]
    batches = jaxllm.chat_batches(rows, model, batch_size=1, max_length=64)
    batch = next(iter(batches))
    learnt = np.asarray(batch.targets_BT)[np.asarray(batch.weights_BT) > 0]
    assert model.tokenizer.decode(learnt).strip() == "2" + model.tokenizer.eos_token
    assert batches.notes[0] == "1 conversations"


def test_a_step_is_the_same_wherever_iteration_begins(model):
    rows = [{"question": f"What is {a}?", "answer": f"{a}"} for a in range(20)]
    batches = jaxllm.chat_batches(rows, model, batch_size=4, max_length=64, epochs=2)
    whole = [np.asarray(batch.tokens_BT) for batch in batches]
    late = [np.asarray(batch.tokens_BT) for batch in batches.between(6, len(batches))]
    assert len(whole) == len(batches) == 10
    np.testing.assert_array_equal(whole[6:], late)


def test_pairs_share_their_prompt_and_know_their_reference(model):
    rows = [{"prompt": "What is 1 plus 1?", "chosen": " 2", "rejected": " It is 3."}]
    batch = next(iter(jaxllm.pair_batches(rows, model, reference=model, batch_size=1, max_length=64)))
    assert sorted(np.asarray(batch.side_BA)[0].tolist()) == [-1, 1]
    assert (np.asarray(batch.ref_logps_BT) < 0).any()
    assert (np.asarray(batch.batch.branches_BT) > 1).any()
    assert next(iter(jaxllm.pair_batches(rows, model, batch_size=1, max_length=64))).ref_logps_BT is None


def test_tags_stand_on_first_subwords(bert):
    model = jaxllm.load(str(bert))
    rows = [{"tokens": ["Ada", "Lovelace", "met"], "ner_tags": ["B-person", "I-person", "O"]}]
    batch = next(iter(jaxllm.tag_batches(rows, model, batch_size=1, max_length=64)))
    assert np.asarray(batch.weights_BT).sum() == 3
    targets = np.asarray(batch.targets_BT)[np.asarray(batch.weights_BT) > 0]
    assert [model.config.labels[i] for i in targets] == ["B-person", "I-person", "O"]


def test_bad_input_is_named(model, bert):
    tagger = jaxllm.load(str(bert))
    with pytest.raises(InputError, match="max_length=4096: the model has positions for 1 to 128"):
        jaxllm.chat_batches([], model, batch_size=1, max_length=4096)
    with pytest.raises(InputError, match="row 2: "):
        jaxllm.chat_batches([{"question": "a", "answer": "b"}, {"question": "a"}], model, batch_size=1, max_length=64)
    with pytest.raises(InputError, match="rows, row 1, word 1: label 'B-x'"):
        jaxllm.tag_batches([{"tokens": ["a"], "ner_tags": ["B-x"]}], tagger, batch_size=1, max_length=64)
    with pytest.raises(InputError, match="no examples"):
        jaxllm.text_batches([], model, batch_size=1, max_length=64)
