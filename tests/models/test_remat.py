"""What the backward pass recomputes costs no gradient, and memory is what it buys."""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.models.remat import REMAT, check_remat
from jaxllm.params import bind, describe
from jaxllm.types import Batch, InputError, value

CONFIG = Config(vocab_size=64, width=32, depth=6, heads=4, mlp_width=96, kv_heads=2, max_positions=64)
ONES = np.ones((8, 64), np.int32)
BATCH = Batch(ONES, ONES, ONES.astype(np.float32), ONES, np.tile(np.arange(64, dtype=np.int32), (8, 1)))


@pytest.fixture(scope="module")
def measured():
    """Gradient, and bytes of temporary memory, by what is recomputed."""
    found = {}
    for remat in REMAT:
        config = dataclasses.replace(CONFIG, remat=remat)
        spec = describe(lambda rngs, config=config: Decoder(config, rngs), SHARDING)
        params = drawn(spec)

        def loss(params, batch, graphdef=spec.graphdef):
            return value(cross_entropy(bind(graphdef, params), batch)["loss"])

        compiled = jax.jit(jax.grad(loss)).lower(params, BATCH).compile()
        found[remat] = compiled(params, BATCH), compiled.memory_analysis().temp_size_in_bytes
    return found


def test_gradients_are_the_same(measured):
    for remat in REMAT:
        for name, x in measured["none"][0].items():
            np.testing.assert_allclose(measured[remat][0][name], x, rtol=1e-4, atol=1e-7, err_msg=f"{remat} {name}")


def test_memory_falls_with_what_is_recomputed(measured):
    none, full = measured["none"][1], measured["full"][1]
    for remat in ("dots", "dots_no_batch", "attention", "mlp"):
        assert full < measured[remat][1] < none, remat
    assert measured["dots_no_batch"][1] < measured["dots"][1]
    assert full < none / 2


def kept(remat):
    """The shapes of what the backward pass of the stack of layers reads from the forward pass."""
    config = dataclasses.replace(CONFIG, remat=remat)
    spec = describe(lambda rngs: Decoder(config, rngs), SHARDING)
    loss = lambda params: value(cross_entropy(bind(spec.graphdef, params), BATCH)["loss"])
    program = jax.make_jaxpr(jax.grad(loss))(spec.graphdef.abstract).jaxpr
    backward = next(e for e in program.eqns if e.primitive.name == "scan" and e.params["reverse"])
    parameters = {x.shape for x in spec.graphdef.abstract.values()}
    read = (x.aval for x in backward.invars)
    return sorted(x.str_short() for x in read if x.ndim > 2 and x.shape[0] == 6 and x.shape not in parameters)


def test_a_policy_keeps_what_it_says():
    """By name: the layer's input, and of attention or the MLP what their backward pass would compute again."""
    assert kept("full") == ["float32[6,8,64,32]"]
    q, k, y = "float32[6,8,64,4,8]", "float32[6,8,64,2,8]", "float32[6,8,64,32]"
    assert kept("attention") == sorted([y, q, k, k, q])
    assert kept("mlp") == sorted([y, "float32[6,8,64,96]", "float32[6,8,64,96]"])
    assert kept("offload") == ["float32<host>[6,8,64,32]"]


class Device:
    device_kind = "X1"

    def addressable_memories(self):
        return ()


def test_offloading_needs_memory_of_the_host():
    check_remat("offload", jax.devices())
    check_remat("full", [Device()])
    with pytest.raises(InputError, match=r"--remat offload: X1 has no pinned host memory.*use --remat full"):
        check_remat("offload", [Device()])
