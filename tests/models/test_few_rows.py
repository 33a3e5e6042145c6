"""Decoding with kernels transposed for few rows: the same tokens as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax import nnx

from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals import decode
from jaxllm.evals.generate import sample
from jaxllm.evals.sampling import Sampling
from jaxllm.models import decoder, few_rows, lora
from jaxllm.models.heads import describe_model
from jaxllm.models.layers import Dense


@pytest.mark.parametrize("shape", [(8, 6), (2, 4, 6), (6,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_layer_computes_what_the_layer_does(shape, bias):
    layer = Dense(6, 10, bias=bias, std=1.0, rngs=nnx.Rngs(0))
    if bias:
        layer.bias[...] = jnp.arange(10.0)
    x = jax.random.normal(jax.random.key(1), shape)
    layer_T = few_rows.Transposed(layer.kernel[...].T, layer.bias)
    np.testing.assert_allclose(layer_T(x), layer(x), rtol=1e-5, atol=1e-5)


def test_few_are_4_to_32_rows_with_whole_kernels_on_a_cpu(monkeypatch):
    assert [rows for rows in range(40) if few_rows.few(rows)] == list(range(4, 33))
    with jax.set_mesh(make_mesh("fsdp=2", jax.devices()[:2])):
        assert not few_rows.few(8)
    with jax.set_mesh(make_mesh("data=2", jax.devices()[:2])):
        assert few_rows.few(8)
    monkeypatch.setattr(few_rows.planning, "platform", lambda: "gpu")
    assert not few_rows.few(8)


MODELS = {
    "tied": {"tied": True, "logit_softcap": 5.0},
    "untied, grouped": {"kv_heads": 1},
    "biases, learned positions": {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "rope_base": 0.0, "tied": True},
    "experts": {"experts": 4},
}


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_sampling_draws_the_same_tokens(name, adapted, monkeypatch):
    config = decoder.Config(vocab_size=40, width=16, depth=2, heads=2, mlp_width=24, **MODELS[name])
    spec = describe_model(config)
    layers = lora.dense_modules(spec.graphdef)
    if adapted:
        spec = lora.add(spec, lora.Config(rank=2, targets=tuple(layers)))
    params = drawn(spec, std=0.3)
    prompts = np.random.default_rng(0).integers(0, 40, (5, 7)).tolist()
    made = []
    init = few_rows.Transposed.__init__
    monkeypatch.setattr(few_rows.Transposed, "__init__", lambda *given: (made.append(given), init(*given))[1])

    def draw():
        return sample(spec.graphdef, params, prompts, Sampling(1.0), key=jax.random.key(1), max_tokens=9)

    found = draw()
    assert len(made) == 1 + config.depth * sum(name.startswith("blocks.") for name in layers)
    monkeypatch.setattr(decoder, "few", lambda rows: False)
    decode.decode.clear_cache()
    made.clear()
    for one, other in zip(found, draw(), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(one.logps, other.logps, rtol=1e-4, atol=1e-5)
    assert not made
