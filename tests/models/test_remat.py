"""What the backward pass recomputes costs no gradient, and memory is what it buys."""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import bind, describe
from jaxllm.types import Batch, value

CONFIG = Config(vocab_size=64, width=32, depth=6, heads=4, mlp_width=96, kv_heads=2, max_positions=64)
ONES = np.ones((8, 64), np.int32)
BATCH = Batch(ONES, ONES, ONES.astype(np.float32), ONES, np.tile(np.arange(64, dtype=np.int32), (8, 1)))


@pytest.fixture(scope="module")
def measured():
    """Gradient, and bytes of temporary memory, by what is recomputed."""
    found = {}
    for remat in ("none", "dots", "full"):
        config = dataclasses.replace(CONFIG, remat=remat)
        spec = describe(lambda rngs, config=config: Decoder(config, rngs), SHARDING)
        params = drawn(spec)

        def loss(params, batch, graphdef=spec.graphdef):
            return value(cross_entropy(bind(graphdef, params), batch)["loss"])

        compiled = jax.jit(jax.grad(loss)).lower(params, BATCH).compile()
        found[remat] = compiled(params, BATCH), compiled.memory_analysis().temp_size_in_bytes
    return found


def test_gradients_are_the_same(measured):
    for remat in ("dots", "full"):
        for name, x in measured["none"][0].items():
            np.testing.assert_allclose(measured[remat][0][name], x, rtol=1e-4, atol=1e-7, err_msg=f"{remat} {name}")


def test_memory_falls_with_what_is_recomputed(measured):
    none, dots, full = (measured[remat][1] for remat in ("none", "dots", "full"))
    assert full < dots < none
    assert full < none / 2
