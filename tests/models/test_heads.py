"""The token classifier on its encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import encoder
from jaxllm.models.heads import Tagger, TaggerConfig
from jaxllm.params import bind, describe
from jaxllm.types import Batch

QUIET = encoder.Config(
    vocab_size=11, width=6, depth=1, heads=2, mlp_width=5, max_positions=8, unroll=1, embedding_dropout=0.0,
    attention_dropout=0.0, attention_output_dropout=0.0, mlp_output_dropout=0.0,
)  # fmt: skip
BATCH = Batch(*map(jnp.array, ([[3, 4, 5, 0]], [[0, 1, 2, 0]], [[1.0, 1.0, 1.0, 0.0]], [[1, 1, 1, 0]], [[0, 1, 2, 0]])))


def made(config: TaggerConfig):
    spec = describe(lambda rngs: Tagger(config, rngs), ())
    rng = np.random.default_rng(0)
    return spec.graphdef, {
        name: jnp.asarray(rng.normal(size=x.shape), x.dtype) for name, x in spec.graphdef.abstract.items()
    }


@pytest.mark.parametrize("transform", [False, True])
def test_logits_are_the_classifier_of_the_transformed_trunk(transform):
    config = TaggerConfig(QUIET, ("O", "B", "I"), transform=transform, transform_bias=True, transform_activation="relu")
    graphdef, params = made(config)

    def run(params):
        model = bind(graphdef, params)
        hidden, metrics = model.hidden(BATCH)
        assert metrics == {}
        return model.body(BATCH), model.head(hidden)

    body, logits = map(np.asarray, jax.jit(run)(params))
    p = {name: np.asarray(x) for name, x in params.items()}
    if transform:
        body = np.maximum(body @ p["transform.dense.kernel"] + p["transform.dense.bias"], 0)
        body = (body - body.mean(-1, keepdims=True)) / np.sqrt(body.var(-1, keepdims=True) + QUIET.norm_eps)
        body = body * p["transform.norm.scale"] + p["transform.norm.bias"]
    np.testing.assert_allclose(logits, body @ p["classifier.kernel"] + p["classifier.bias"], rtol=1e-4, atol=1e-4)
    assert logits.shape == (1, 4, 3)


def test_logits_are_float32_whatever_the_trunk_computes_in():
    config = TaggerConfig(dataclasses.replace(QUIET, dtype="bfloat16"), ("O", "B"))
    graphdef, params = made(config)

    def run(params):
        hidden, _ = bind(graphdef, params).hidden(BATCH)
        return hidden, bind(graphdef, params).head(hidden)

    hidden, logits = jax.eval_shape(run, params)
    assert hidden.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32


def test_classifier_dropout_has_its_rate_and_its_mean():
    graphdef, params = made(TaggerConfig(QUIET, ("O", "B"), classifier_dropout=0.3))
    hidden = lambda key: bind(graphdef, params).hidden(BATCH, key)[0]
    plain = np.asarray(jax.jit(lambda: hidden(None))())
    many = np.asarray(jax.jit(jax.vmap(hidden))(jax.random.split(jax.random.key(0), 2000)))
    assert abs(np.mean(many == 0) - 0.3) < 0.01
    np.testing.assert_allclose(many.mean(0), plain, atol=0.1 * np.abs(plain).max())


def test_parameters_of_the_trunk_are_called_as_without_a_head():
    trunk = describe(lambda rngs: encoder.Encoder(QUIET, rngs), ()).graphdef.abstract
    tagger = describe(lambda rngs: Tagger(TaggerConfig(QUIET, ("O",)), rngs), ()).graphdef.abstract
    assert trunk.items() <= tagger.items()
    assert {name.split(".")[0] for name in tagger.keys() - trunk.keys()} == {"classifier"}
