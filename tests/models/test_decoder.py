"""Properties of decoders that hold whatever the family; numbers against `transformers` are in tests/hf."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.models.attention import Tokens
from jaxllm.models.decoder import PRESETS, SHARDING, Cache, Config, Decoder
from jaxllm.params import bind, count, describe, split
from jaxllm.train.mesh import ROWS, make_mesh, put_batch, shardings, spec_of
from jaxllm.types import Batch, InputError, value

SMALL = Config(vocab_size=61, width=24, depth=3, heads=4, mlp_width=40, kv_heads=2, max_positions=64, init_std=0.2)
GEMMA = dataclasses.replace(
    SMALL, windows=(4, 0), local_rope_base=100.0, norm_offset=1.0, norm_place="both", qk_norm="head", tied=True,
    attention_softcap=5.0, logit_softcap=7.0, embedding_scale=4.9,
)  # fmt: skip
GPT2 = dataclasses.replace(
    SMALL, rope_base=0.0, norm="layer", gated=False, activation="gelu_tanh", kv_heads=0, qkv_bias=True, out_bias=True,
    mlp_bias=True, embedding_dropout=0.2, attention_dropout=0.2, output_dropout=0.2,
)  # fmt: skip
MIXTURE = dataclasses.replace(SMALL, experts=4, qk_norm="full", norm_place="after")
CONFIGS = {"llama": SMALL, "gemma": GEMMA, "gpt2": GPT2, "mixture": MIXTURE}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def build(config):
    return split(jax.jit(lambda: Decoder(config, nnx.Rngs(0)))())


def batch(tokens, segments=None, positions=None):
    tokens = jnp.asarray(tokens)
    segments = jnp.ones_like(tokens) if segments is None else jnp.asarray(segments)
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return Batch(tokens, tokens, jnp.ones(tokens.shape), segments, jnp.asarray(positions))


def draw(rows, length):
    return np.random.default_rng(0).integers(0, 61, (rows, length))


def logits(graphdef, params, batch, key=None):
    model = bind(graphdef, params)
    return model.head(model.hidden(batch, key)[0])


@each
def test_sees_its_past_and_nothing_else(config):
    """By gradients with respect to the embedding: position 9 depends on tokens 0 to 9 alone."""
    graphdef, params = build(dataclasses.replace(config, attention_softcap=0.0, windows=(0,)))
    tokens = np.arange(16)[None]

    def at_nine(table):
        return logits(graphdef, params | {"embeddings.tokens.embedding": table}, batch(tokens))[0, 9, 0]

    if config.tied:
        pytest.skip("a tied head reads every row of the table")
    touched = jnp.any(jax.jit(jax.grad(at_nine))(params["embeddings.tokens.embedding"]) != 0, axis=1)
    assert touched[:10].all()
    assert not touched[10:].any()
