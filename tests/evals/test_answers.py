"""Scores of answers: by the logits of `transformers`, and by hand."""

import math

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm.data import tokenizers
from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import Example, make_plan
from jaxllm.distributed import mesh as meshes
from jaxllm.evals.answers import Question, answer, evaluate, score, token_f1
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import bind, describe
from jaxllm.train.forward import Runner


@pytest.fixture(scope="module")
def runner():
    config = Config(vocab_size=300, width=32, depth=1, heads=2, mlp_width=48, tied=True, init_std=0.3)
    spec = describe(lambda rngs: Decoder(config, rngs), SHARDING)
    mesh = meshes.make_mesh()
    at = meshes.shardings(spec.graphdef.abstract, mesh, spec.rules)
    return Runner(spec.graphdef, drawn(spec, 0.3, at=at), mesh)


def test_loss_and_accuracy_are_over_the_tokens_to_learn_and_blind_to_packing(runner):
    rng = np.random.default_rng(0)
    examples = []
    for n in rng.integers(5, 20, 30):
        tokens = rng.integers(0, 300, n + 1).astype(np.int32)
        examples.append(Example(tokens[:-1], tokens[1:], (rng.random(n) < 0.5).astype(np.float32)))
    nats = hits = count = 0.0
    params = jax.device_get(runner.params)

    @jax.jit
    def logits_of(params, batch):
        model = bind(runner.graphdef, params)
        return model.head(model.hidden(batch)[0])[0]

    from jaxllm.data.packing import collate

    for example in examples:
        batch = collate([[example]], 32, 1)
        logits_TV = np.asarray(logits_of(params, batch), np.float64)[: len(example.tokens)]
        logps_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
        nats -= (logps_TV[np.arange(len(example.tokens)), example.targets] * example.weights).sum()
        hits += ((logits_TV.argmax(-1) == example.targets) * example.weights).sum()
        count += example.weights.sum()
    plan = make_plan(lengths(examples), batch_size=16, multiple=8)
    found = evaluate(runner, EvalBatches(examples, plan))
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found["accuracy"] == pytest.approx(hits / count)


def test_answers_end_at_an_end_token_or_are_cut_short(runner):
    tokenizer = tokenizers.bpe(["some words to make tokens of"], 300)
    questions = [Question([5, 6, 7], "q", "a"), Question([9], "q", "a")]
    free = answer(runner, questions, tokenizer, (), 6)
    assert [ended for _, ended in free] == [False, False]
    from jaxllm.evals.generate import Sampling, generate

    tokens = generate(runner.graphdef, runner.params, [[5, 6, 7], [9]], Sampling(), max_tokens=6)
    assert [text for text, _ in free] == [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    stop = tokens[0][1]
    first = answer(runner, questions, tokenizer, (stop,), 6)[0]
    assert first == (tokenizer.decode(tokens[0][: tokens[0].index(stop) + 1], skip_special_tokens=True).strip(), True)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("Returns the file.", "returns the FILE", 1.0),
        ("the cat sat", "the dog", 2 / 5),
        ("the the the", "the dog", 2 / 5),
        ("get_cache_token", "get cache token", 0.0),
        ("", "words", 0.0),
        ("...", "!!!", 0.0),
    ],
)
def test_token_f1(a, b, wanted):
    assert token_f1(a, b) == pytest.approx(wanted)
    assert token_f1(b, a) == pytest.approx(wanted)


def test_scores_are_means_over_the_answers():
    questions = [Question([], "q", "a b"), Question([], "q", "c d")]
    assert score([("a b", True), ("c x", False)], questions) == {"ended": 0.5, "token_f1": 0.75}
