"""Fixtures that several folders of tests share."""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import pytest
from drawn import drawn

from jaxllm import __main__, hf
from jaxllm.data import tokenizers
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.chat.templates import give_template
from jaxllm.data.packing import Example, collate
from jaxllm.models import decoder, encoder
from jaxllm.models.decoder import Decoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import ModelSpec, describe
from jaxllm.run import lock, preemption
from jaxllm.types import Batch

SIZES = {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64, "max_positions": 128}
VOCAB, LABELS = 24, ("O", "B-X", "I-X", "B-Y", "I-Y")


@pytest.fixture(scope="session")
def tagger() -> Callable[..., ModelSpec]:
    """tagger(dropout=0.0, width=16) -> the description of a BERT of two layers."""

    def make(dropout: float = 0.0, width: int = 16) -> ModelSpec:
        rates = ("embedding", "attention", "attention_output", "mlp_output")
        shape = encoder.Config(
            vocab_size=VOCAB, width=width, depth=2, heads=2, mlp_width=2 * width, max_positions=32, unroll=1,
            **{f"{name}_dropout": dropout for name in rates},
        )  # fmt: skip
        config = TaggerConfig(shape, LABELS, classifier_dropout=dropout)
        return describe(lambda rngs: Tagger(config, rngs), SHARDING)

    return make


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """60 sequences of 3 to 14 tokens; the label follows from the token; many tokens weigh nothing."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(60):
        tokens = rng.integers(0, VOCAB, rng.integers(3, 15)).astype(np.int32)
        weights = (rng.random(len(tokens)) < 0.7).astype(np.float32)
        made.append(Example(tokens, tokens % len(LABELS), weights))
    return made


@pytest.fixture(scope="session")
def uneven(examples: list[Example]) -> Batch:
    """16 rows of 16, packed, whose sums of weights go from 0 to many: the first three rows learn nothing."""
    spare = [example for example in examples[16:] if len(example.tokens) <= 6]
    rows = [[example, *([spare.pop()] if len(example.tokens) <= 10 else [])] for example in examples[:16]]
    batch = collate(rows, 16, 16)
    rng = np.random.default_rng(1)
    density = np.concatenate([np.zeros(3), np.linspace(0.1, 1.0, 13)])[:, None]
    weights = (rng.random(batch.weights_BT.shape) < density) * rng.uniform(0.2, 3.0, batch.weights_BT.shape)
    return dataclasses.replace(batch, weights_BT=(weights * (batch.segments_BT > 0)).astype(np.float32))


@pytest.fixture
def not_to_the_end(monkeypatch):
    """A script hears SIGTERM and keeps its locks until its process ends, which is no script's here."""
    monkeypatch.setattr(preemption, "listen_to_the_end", lambda: None)
    monkeypatch.setattr(lock, "keep_to_the_end", lambda: None)


@pytest.fixture
def command(monkeypatch):
    """command("convert", source, ...) runs `python -m jaxllm` with these words, as from a shell, in this process."""

    def command(*argv):
        monkeypatch.setattr(sys, "argv", ["jaxllm", *map(str, argv)])
        monkeypatch.setenv("JAXLLM_STARTED", "1")
        __main__.main()

    return command


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A decoder with random weights, and a tokenizer with a chat template, as `transformers` has them on disk."""
    texts = [f"What is {a} plus {b}? It is {a + b}. User: Assistant:" for a in range(12) for b in range(12)]
    tokenizer = tokenizers.bpe(texts, 300)
    give_template(tokenizer, "plain")
    config = decoder.Config(vocab_size=len(tokenizer), kv_heads=2, **SIZES)
    folder = tmp_path_factory.mktemp("models") / "llama"
    params = drawn(describe(lambda rngs: Decoder(config, rngs), decoder.SHARDING))
    hf.export(folder, params, config, tokenizer)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tagger with random weights and the labels of persons."""
    tokenizer = builtin.wordpiece(["My name is Maarten", "Ada Lovelace met Alan Turing in London"], 200, 128)
    config = TaggerConfig(encoder.Config(vocab_size=len(tokenizer), **SIZES), ("O", "B-person", "I-person"))
    folder = tmp_path_factory.mktemp("models") / "bert"
    params = drawn(describe(lambda rngs: Tagger(config, rngs), SHARDING))
    hf.export(folder, params, config, tokenizer)
    return folder
