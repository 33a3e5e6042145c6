"""Folders that a program would load: a tiny Llama with a chat template, a tiny BERT with its tokenizer."""

import jax
import pytest

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.chat.templates import give_template
from jaxllm.models import decoder, encoder
from jaxllm.models.decoder import Decoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import describe

SIZES = {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64, "max_positions": 128}
LABELS = ("O", "B-person", "I-person")


@pytest.fixture(scope="session", autouse=True)
def few_optimisations():
    """Programs are compiled here to be run for a few steps."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A decoder with random weights, and a tokenizer with a chat template, as `transformers` has them on disk."""
    texts = [f"What is {a} plus {b}? It is {a + b}. User: Assistant:" for a in range(12) for b in range(12)]
    tokenizer = tokenizers.bpe(texts, 300)
    give_template(tokenizer, "plain")
    config = decoder.Config(vocab_size=len(tokenizer), kv_heads=2, **SIZES)
    folder = tmp_path_factory.mktemp("models") / "llama"
    params = describe(lambda rngs: Decoder(config, rngs), decoder.SHARDING).init(jax.random.key(0))
    hf.export(folder, params, config, tokenizer)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tagger with random weights and the labels of persons."""
    tokenizer = builtin.wordpiece(["My name is Maarten", "Ada Lovelace met Alan Turing in London"], 200, 128)
    config = TaggerConfig(encoder.Config(vocab_size=len(tokenizer), **SIZES), LABELS)
    folder = tmp_path_factory.mktemp("models") / "bert"
    params = describe(lambda rngs: Tagger(config, rngs), SHARDING).init(jax.random.key(0))
    hf.export(folder, params, config, tokenizer)
    return folder
