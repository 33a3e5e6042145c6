"""Attention round a ring of devices against attention on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, B, T, draw, packed
from jax.sharding import NamedSharding

from jaxllm.axes import TOKENS, cuts
from jaxllm.distributed.mesh import make_mesh
from jaxllm.models import ring
from jaxllm.models.attention import Tokens, attention


def both(case, mesh):
    """Values where something is seen, and gradients, of one device and of the mesh."""
    how = dict(CASES[case])
    window = how.pop("window", None)
    tokens, (q, k, v, out) = packed(case == "branches"), draw()

    def value(q, k, v, tokens, window, out):
        y = attention(q, k, v, tokens, tokens, window=window, **how)
        y = jnp.where(tokens.segments_BT[..., None, None] > 0, y, 0)
        return jnp.sum(y * out), y

    run = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))
    arguments = q, k, v, tokens, None if window is None else jnp.int32(window), out
    expected = run(*arguments)
    at = NamedSharding(mesh, TOKENS)
    placed = jax.tree.map(lambda x: jax.device_put(x, at) if x.ndim > 1 else x, arguments)
    with jax.set_mesh(mesh):
        assert cuts("context") == mesh.shape["context"]
        found = run(*placed)
        text = run.lower(*placed).as_text()
    assert "collective_permute" in text, "it went round"
    return expected, found


@pytest.mark.parametrize(
    ("case", "text"),
    [("causal", "context=8"), ("branches", "fsdp=2,context=4"), ("encoder", "data=2,tensor=2,context=2"),
     ("gemma", "data=2,fsdp=2,context=2"), ("gemma", "expert=2,tensor=1,context=4")],
)  # fmt: skip
def test_as_on_one_device(case, text):
    ((_, y), gradients), ((_, found_y), found_gradients) = both(case, make_mesh(text))
    np.testing.assert_allclose(found_y, y, atol=1e-5)
    assert float(jnp.abs(y).max()) > 0.5
    for name, found, expected in zip("qkv", found_gradients, gradients, strict=True):
        assert float(jnp.abs(expected).max()) > 0.5
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
        assert {s.data.shape[1] for s in found.addressable_shards} == {T // make_mesh(text).shape["context"]}


@pytest.mark.parametrize("case", CASES)
def test_a_device_cuts_its_own_part_into_blocks(case, monkeypatch):
    monkeypatch.setattr(ring, "block_length", lambda: 5)  # of 12 tokens, the last block padded
    ((_, y), gradients), ((_, found_y), found_gradients) = both(case, make_mesh("data=4,context=2"))
    np.testing.assert_allclose(found_y, y, atol=1e-5)
    for name, found, expected in zip("qkv", found_gradients, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


def test_padding_is_finite_and_without_gradient():
    """A query that sees nothing gives 0 here, something finite on one device; neither says anything to the keys."""
    mesh, tokens = make_mesh("context=8"), packed(False)
    q, k, v, out = draw()

    @jax.jit
    def run(q, k, v):
        value = lambda *qkv: jnp.sum(attention(*qkv, tokens, tokens, causal=True) * out)
        return attention(q, k, v, tokens, tokens, causal=True), jax.grad(value, (0, 1, 2))(q, k, v)

    with jax.set_mesh(mesh):
        y, gradients = run(q, k, v)
    padding = np.asarray(tokens.segments_BT) == 0
    assert padding.any()
    assert not np.asarray(y)[padding].any()
    for x in gradients:
        assert np.isfinite(x).all()
        assert not np.asarray(x)[padding].any()


def test_bfloat16_is_near():
    tokens, exact = packed(False), draw()
    half = [x.astype(jnp.bfloat16) for x in exact]
    run = jax.jit(lambda q, k, v, tokens: attention(q, k, v, tokens, tokens, causal=True))
    expected = run(*exact[:3], tokens)
    with jax.set_mesh(make_mesh("context=8")):
        found = run(*half[:3], tokens)
    assert found.dtype == jnp.bfloat16
    real = np.asarray(tokens.segments_BT) > 0
    np.testing.assert_allclose(np.asarray(found, np.float32)[real], np.asarray(expected)[real], atol=0.03)


def test_dropout_drops_its_share_and_its_gradient_is_that_of_what_it_did():
    """Values are ones, so each output is what dropout left of a sum of probabilities that was one."""
    tokens = Tokens(jnp.ones((B, T), jnp.int32), jnp.broadcast_to(jnp.arange(T), (B, T)))
    q, k, v, out = draw()
    direction = jnp.sign(out)
    how = {"causal": False, "dropout_rate": 0.25}

    def dropped(q, k, v, key):
        return attention(q, k, v, tokens, tokens, dropout_key=key, **how)

    @jax.jit
    def run(q, k, v, key):
        value = lambda *qkv: jnp.sum(dropped(*qkv, key) * out)
        gradients = jax.grad(value, (0, 1, 2))(q, k, v)
        step = 1e-2
        along = (value(q + step * direction, k, v) - value(q - step * direction, k, v)) / (2 * step)
        return dropped(q, k, jnp.ones_like(v), key), gradients, along

    with jax.set_mesh(make_mesh("data=2,context=4")):
        y, gradients, along = run(q, k, v, jax.random.key(0))
        again, _, _ = run(q, k, v, jax.random.key(0))
        other, _, _ = run(q, k, v, jax.random.key(1))
    assert (y == again).all()
    assert not (y == other).all()
    assert float(jnp.mean(y)) == pytest.approx(1.0, abs=0.02)
    assert float(jnp.std(y[..., 0])) > 0.05
    halves = np.asarray(y[..., 0]).reshape(2, -1)
    assert not (halves[0] == halves[1]).all(), "other rows draw other numbers"
    np.testing.assert_allclose(jnp.sum(gradients[0] * direction), along, rtol=2e-3)


def test_the_scores_of_a_devices_part_are_never_held_whole():
    length, heads = 4096, 2
    shape, whole = (1, length, heads, 8), jax.ShapeDtypeStruct((1, length), jnp.int32)
    q = jax.ShapeDtypeStruct(shape, jnp.float32)
    mesh = make_mesh("expert=4,context=2")

    def value(q, tokens):
        return jnp.sum(attention(q, q, q, tokens, tokens, causal=True))

    with jax.set_mesh(mesh):
        at = NamedSharding(mesh, TOKENS)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), (q, Tokens(whole, whole)))
        compiled = jax.jit(jax.grad(value)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < heads * (length // 2) ** 2 * 4


def test_memory_of_a_device_falls_with_the_axis():
    """Temporaries of forward and backward pass, as the compiler plans them, beside keys and values gathered."""
    length, heads = 1024, jax.ShapeDtypeStruct((1, 1024, 2, 16), jnp.float32)
    tokens = Tokens(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2)

    def value(q, k, v, tokens):
        layer = lambda x, scale: (attention(x * scale, k, v, tokens, tokens, causal=True), None)
        return jnp.sum(jax.lax.scan(layer, q, jnp.ones(2))[0])

    def temporaries(text, ring):
        mesh = make_mesh(text)
        at = NamedSharding(mesh, TOKENS)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), (heads,) * 3 + (tokens,))
        run = jax.jit(jax.grad(value, (0, 1, 2)))
        if not ring:
            return run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        with jax.set_mesh(mesh):
            return run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    two, eight = temporaries("expert=4,context=2", True), temporaries("context=8", True)
    gathered = temporaries("context=8", False)
    assert eight < two / 4
    assert eight < gathered / 2
