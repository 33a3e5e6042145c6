"""Attention in blocks against attention over whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, draw, packed

from jaxllm.distributed.mesh import make_mesh
from jaxllm.models.attention import Tokens, attention
from jaxllm.models.blockwise import LONG, blockwise_attention


def arguments_of(case):
    how = {"window": None, "softcap": 0.0, "scale": 8**-0.5, "dropout_rate": 0.0, "dropout_key": None, **CASES[case]}
    how["window"] = None if how["window"] is None else jnp.int32(how["window"])
    return packed(case == "branches"), draw(), how


def gradients(run, q, k, v, out, tokens):
    def value(q, k, v):
        y = jnp.where(tokens.segments_BT[..., None, None] > 0, run(q, k, v), 0)
        return jnp.sum(y * out), y

    return jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("block", "text"), [(8, ""), (10, ""), (8, "data=2,tensor=2,expert=2")])
def test_equals_attention_over_whole_rows(case, block, text):
    tokens, (q, k, v, out), how = arguments_of(case)
    (_, expected), expected_gradients = gradients(
        lambda q, k, v: attention(q, k, v, tokens, tokens, **how), q, k, v, out, tokens
    )
    run = lambda q, k, v: blockwise_attention(q, k, v, tokens, tokens, block=block, **how)
    if text:
        with jax.set_mesh(make_mesh(text)):
            (_, found), found_gradients = gradients(run, q, k, v, out, tokens)
    else:
        (_, found), found_gradients = gradients(run, q, k, v, out, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for name, ours, theirs in zip("qkv", found_gradients, expected_gradients, strict=True):
        assert float(jnp.abs(theirs).max()) > 0.5
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_padding_sees_nothing_and_says_nothing():
    tokens, (q, k, v, out), how = arguments_of("causal")
    y, pull = jax.vjp(lambda q, k, v: blockwise_attention(q, k, v, tokens, tokens, block=8, **how), q, k, v)
    padding = np.asarray(tokens.segments_BT) == 0
    assert padding.any()
    assert (np.asarray(y)[padding] == 0).all()
    assert all((np.asarray(x)[padding] == 0).all() for x in pull(out))


def test_blocks_that_nobody_sees_are_not_computed():
    """Values that are not a number, in another document and in the future, would show in a product with 0."""
    tokens, (q, k, v, out), how = arguments_of("causal")
    segments = jnp.asarray(np.repeat([[1] * 8 + [2] * 8 + [3] * 8], len(q), 0))
    positions = jnp.asarray(np.tile(np.arange(8), (len(q), 3)))
    tokens = Tokens(segments, positions)
    v = v.at[:, 8:16].set(jnp.nan)
    y, pull = jax.vjp(lambda v: blockwise_attention(q, k, v, tokens, tokens, block=8, **how), v)
    assert jnp.isfinite(y[:, :8]).all()
    assert jnp.isfinite(y[:, 16:]).all()
    assert jnp.isfinite(pull(out)[0][:, 16:]).all()


def test_dropout_drops_the_same_in_both_passes_and_keeps_the_mean():
    tokens, (q, k, v, out), how = arguments_of("causal")
    plain = blockwise_attention(q, k, v, tokens, tokens, block=8, **how)
    how |= {"dropout_rate": 0.3}

    @jax.jit
    def run(key, v):
        return blockwise_attention(q, k, v, tokens, tokens, block=8, **{**how, "dropout_key": key})

    key = jax.random.key(1)
    y, pull = jax.vjp(lambda v: run(key, v), v)
    assert float(jnp.abs(y - plain).max()) > 0.1
    # It is linear in the values, so the gradient times the values gives the result again.
    np.testing.assert_allclose(jnp.vdot(pull(out)[0], v), jnp.vdot(y, out), rtol=1e-5)
    many = jax.vmap(run, (0, None))(jax.random.split(key, 1000), v)
    error = jnp.abs(many.mean(0) - plain) / (many.std(0) / 1000**0.5 + 1e-5)
    assert error.max() < 5


def test_memory_of_long_rows_grows_with_their_length():
    def temporaries(length):
        shape = jax.ShapeDtypeStruct((1, length, 4, 8), jnp.float32)
        whole = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(x, scales, segments, positions):
            tokens = Tokens(segments, positions)

            def layer(x, scale):  # whose mask is the same in each layer, and must not be kept for all blocks
                return attention(x * scale, x, x, tokens, tokens, causal=True), None

            return jax.lax.scan(layer, x, scales)[0].sum()

        step = jax.jit(jax.grad(loss, (0, 1)))
        return (
            step.lower(shape, jax.ShapeDtypeStruct((2,), jnp.float32), whole, whole)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    short, long = temporaries(LONG), temporaries(2 * LONG)
    scores = 4 * LONG**2 * 4
    assert short < 0.8 * scores
    assert long < 1.5 * short  # scores of whole rows would be four times as large
