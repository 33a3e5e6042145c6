"""The loss of held-out text against a softmax written out, document by document."""

import json
import math
from functools import partial

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm.data import tokenizers
from jaxllm.data.text.documents import Documents, Fragment
from jaxllm.data.text.rows import Concatenated, Packed, TextBatches
from jaxllm.data.text.token_cache import open_corpus
from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.loss import evaluate
from jaxllm.losses import tokens as token_losses
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import bind, describe
from jaxllm.train.forward import Runner
from jaxllm.types import Batch

TEXTS = ["the cat é", "a", "on the mat, the cat sat and sat" * 2]
LENGTH = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    tokenizer = tokenizers.characters(TEXTS)
    documents = Documents("texts", json.dumps(TEXTS), lambda: (Fragment(text, True) for text in TEXTS))
    return open_corpus(documents, tokenizer, 32, root=tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def runner():
    config = Config(vocab_size=32, width=16, depth=1, heads=2, mlp_width=32, max_positions=128, init_std=0.3)
    spec = describe(lambda rngs: Decoder(config, rngs), SHARDING)
    return Runner(spec.graphdef, drawn(spec, 0.3), make_mesh())


def nats(runner, sequence):
    """What a sequence costs, token by token, each from all before it."""
    length = len(sequence) - 1
    tokens = np.pad(np.asarray(sequence, np.int32)[:-1], (0, LENGTH - length))[None]
    positions = np.arange(LENGTH, dtype=np.int32)[None]
    batch = Batch(tokens, tokens, np.ones(tokens.shape, np.float32), (positions < length).astype(np.int32), positions)
    logits = np.asarray(logits_of(runner.graphdef, runner.params, batch), np.float64)[:length]
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return -logits[np.arange(length), sequence[1:]].sum()


@partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, batch):
    model = bind(graphdef, params)
    return model.head(model.hidden(batch)[0][0])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("rows", [Packed, Concatenated])
def test_sums_are_exact_over_the_whole_text(corpus, runner, rows, chunked, monkeypatch):
    if chunked:
        monkeypatch.setattr(token_losses, "LOGITS_BYTES", 8 * 32 * 4 * 5)
    stream = corpus.tokens.astype(int).tolist()
    pieces = [stream[a:b] for a, b in zip(corpus.starts, corpus.ends, strict=True)] if rows is Packed else [stream]
    windows = [piece[i : i + LENGTH + 1] for piece in pieces for i in range(0, len(piece) - 1, LENGTH)]
    total = sum(nats(runner, window) for window in windows)
    count = sum(map(len, TEXTS)) + len(TEXTS)  # every character, and the end of every document

    fresh = Runner(runner.graphdef, runner.params, runner.mesh)
    found = evaluate(fresh, TextBatches([rows(corpus, LENGTH)], 8, 8))
    assert found["loss"] == pytest.approx(total / count, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / len("".join(TEXTS).encode()), rel=1e-6)


def test_batches_and_several_corpora_add_up(corpus, runner):
    one = evaluate(runner, TextBatches([Packed(corpus, LENGTH)], 8, 8))
    both = evaluate(runner, TextBatches([Packed(corpus, LENGTH)] * 2, 16, 8))
    assert both["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert both["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-6)
