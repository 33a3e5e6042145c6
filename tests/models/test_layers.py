"""Layers against what they are defined to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.distributed.mesh import make_mesh
from jaxllm.models import layers
from jaxllm.models.remat import REMAT

torch = pytest.importorskip("torch")


def plain(x, kernel):
    return jnp.einsum("...d,df->...f", x, kernel)


def scanned(f):
    """f applied over a leading axis of kernels, as a stack of layers does."""

    def run(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(f(x, kernel)), None), x, kernels)[0]

    return run


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 5, 3, 4)])
def test_gradient_of_matmul_is_the_plain_one(shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=shape).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    loss = lambda f: lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)))
    ours = jax.jit(jax.value_and_grad(loss(layers.matmul), argnums=(0, 1)))(x, kernel)
    expected = jax.jit(jax.value_and_grad(loss(plain), argnums=(0, 1)))(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected)


@pytest.mark.parametrize("how", ["vmap", "vmap kernels", "scan", "checkpointed scan", "bfloat16"])
def test_gradient_of_matmul_under_transforms(how):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(3, 2, 4)).astype(np.float32), rng.normal(size=(3, 4, 4)).astype(np.float32)
    dtype, tolerance = (jnp.bfloat16, 0.05) if how == "bfloat16" else (jnp.float32, 1e-5)
    wrap = {
        "vmap": lambda f: lambda x, kernel: jax.vmap(f, (0, None))(x, kernel[0]),
        "vmap kernels": jax.vmap,
        "scan": scanned,
        "checkpointed scan": lambda f: jax.checkpoint(scanned(f)),
        "bfloat16": lambda f: lambda x, kernel: f(x, kernel[0]),
    }[how]

    def grads(f):
        loss = lambda x, kernel: jnp.sum(jnp.sin(wrap(f)(x, kernel).astype(jnp.float32)))
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))

    for ours, expected in zip(grads(layers.matmul), grads(plain), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), np.asarray(expected, np.float32), rtol=tolerance, atol=tolerance
        )


def test_softmax_and_its_derivatives_are_those_of_jax():
    x, direction = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(4).normal(size=(2, 3, 5)))
    x = x.at[0, :3].set(-1e30).at[1].set(-1e30)  # a row that sees little, and one that sees nothing
    reference = lambda x: jax.nn.softmax(x, axis=-1)
    for ours, expected in zip(*(jax.jvp(f, (x,), (direction,)) for f in (layers.softmax, reference)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)
    ours, expected = (jax.grad(lambda x, f=f: jnp.sum(direction * f(x)))(x) for f in (layers.softmax, reference))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_what_is_cheap_to_compute_is_not_kept_for_the_backward_pass():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(4, 8, 16)), jnp.float32)

    def kept(f, *xs):
        return sum(leaf.size == x.size for leaf in jax.tree.leaves(jax.vjp(f, *xs)[1]))

    assert kept(layers.softmax, x) == 1
    assert kept(layers.RMSNorm(16, eps=1e-5), x) == 1
    assert kept(layers.LayerNorm(16, eps=1e-5), x) == 1
    for activation in layers.ACTIVATIONS.values():
        assert kept(layers.recompute(lambda gate, up, f=activation: f(gate) * up), x, x + 1) == 2


def test_gelu_and_its_gradient_are_torchs():
    x = np.linspace(-9, 9, 2001)
    exact = torch.tensor(x, requires_grad=True)
    torch.nn.functional.gelu(exact).sum().backward()
    expected = torch.nn.functional.gelu(exact).detach().numpy()
    single = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(layers.gelu(single), expected, rtol=1e-6, atol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(layers.gelu(x)))(single)
    np.testing.assert_allclose(slope, exact.grad, rtol=1e-6, atol=1e-6)
    half = single.astype(jnp.bfloat16)
    rounded = torch.nn.functional.gelu(torch.tensor(np.asarray(half, np.float64))).numpy()
    np.testing.assert_allclose(np.asarray(layers.gelu(half), np.float64), rounded, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_is_torchs(bias):
    rng = np.random.default_rng(2)
    x, scale, shift = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 7), (7,), (7,)))
    ours = layers.layer_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(shift) if bias else None, 1e-3)
    shifted = torch.tensor(shift) if bias else None
    expected = torch.nn.functional.layer_norm(torch.tensor(x), (7,), torch.tensor(scale), shifted, 1e-3)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    low = layers.layer_norm(jnp.asarray(x, jnp.bfloat16), jnp.asarray(scale), None, 1e-3)
    assert low.dtype == jnp.bfloat16


def test_rope_turns_by_position_and_keeps_lengths():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 5, 2, 6)).astype(np.float32)
    positions = np.array([[0, 1, 2, 7, 9]])
    y = np.asarray(layers.rope(jnp.asarray(x), jnp.asarray(positions), 100.0))
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    pairs = x[..., :3] + 1j * x[..., 3:]
    angle = positions[..., None] * 100.0 ** (-np.arange(3) / 3)
    turned = pairs * np.exp(1j * angle)[:, :, None, :]
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)
    # Scores depend on the distance alone.
    shifted = np.asarray(layers.rope(jnp.asarray(x), jnp.asarray(positions + 4), 100.0))
    dots = lambda z: np.einsum("bthd,bshd->bhts", z, z)
    np.testing.assert_allclose(dots(y), dots(shifted), atol=1e-4)


def test_rope_computes_the_angles_once_for_all_heads():
    """XLA:CPU would take a cosine into each fusion that reads it, and there once for each head and half."""
    q_BTNH, k_BTKH, positions = jnp.ones((2, 8, 4, 6)), jnp.ones((2, 8, 2, 6)), jnp.arange(16).reshape(2, 8)
    both = jax.jit(lambda q, k, positions: (layers.rope(q, positions, 100.0), layers.rope(k, positions, 100.0)))
    text = both.lower(q_BTNH, k_BTKH, positions).compile().as_text()
    assert [line.split()[2] for line in text.splitlines() if " cosine(" in line] == ["f32[2,8,1,3]{3,2,1,0}"]


def test_dropout_has_its_rate_and_keeps_the_mean():
    x = jnp.full((400, 500), 2.0)
    y = np.asarray(layers.dropout(x, 0.3, jax.random.key(0)))
    assert set(np.unique(y)) == {0.0, np.float32(2.0 / 0.7)}
    assert abs(np.mean(y == 0) - 0.3) < 0.005
    assert abs(y.mean() - 2.0) < 0.02
    assert layers.dropout(x, 0.3, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x
    assert layers.dropout(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("width", [500, 501])
def test_what_dropout_keeps_is_drawn_for_each_element_and_on_every_mesh_alike(width):
    key, mesh = jax.random.key(1), make_mesh("fsdp=2,tensor=4")
    kept = np.asarray(layers.keeps(key, 0.5, (400, width)))
    for step in (1, 2):  # the same random word, and the next one
        agree = np.mean(kept[:, step:] == kept[:, :-step])
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(kept[:, step:].size)
    cut = jax.sharding.NamedSharding(mesh, P("fsdp", None if width % 2 else "tensor"))
    sharded = jax.jit(lambda key: layers.keeps(key, 0.5, (400, width)), out_shardings=cut)(key)
    np.testing.assert_array_equal(np.asarray(sharded), kept)


@pytest.mark.parametrize("remat", list(REMAT))
@pytest.mark.parametrize("unroll", [0, 1, 2])
def test_a_stack_is_its_blocks_in_turn(remat, unroll):
    from flax import nnx

    blocks = layers.stack(lambda rngs: layers.Dense(3, 3, std=1.0, rngs=rngs), 4, nnx.Rngs(0))
    x, extra = jnp.ones((2, 3)), (jnp.arange(4.0),)

    class Plus(nnx.Module):
        def __init__(self, dense):
            self.dense = dense

        def __call__(self, x, shift):
            return jnp.sin(self.dense(x) + shift)

    found = layers.run_stack(Plus(blocks), x, extra, remat=remat, unroll=unroll)
    kernel, bias = np.asarray(blocks.kernel[...]), np.asarray(blocks.bias[...])
    expected = np.ones((2, 3))
    for layer in range(4):
        expected = np.sin(expected @ kernel[layer] + bias[layer] + layer)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_heads_gradient_in_pieces_is_that_of_the_product(monkeypatch):
    draw = np.random.default_rng(0)
    x, kernel, dy = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((4, 6, 32), (32, 40), (4, 6, 40)))
    expected = jax.vjp(lambda x, kernel: x @ kernel, x, kernel)[1](dy)
    monkeypatch.setattr(layers, "PIECE_BYTES", 32 * 40 * 4 // 2 // 4)  # four pieces of each part of two
    pull = jax.jit(lambda x, kernel, dy: jax.vjp(layers.matmul_in_pieces, x, kernel)[1](dy))
    with jax.set_mesh(make_mesh("fsdp=4,tensor=2")):
        at = (P("fsdp"), P("fsdp", "tensor"), P("fsdp", None, "tensor"))
        placed = [jax.device_put(array, spec) for array, spec in zip((x, kernel, dy), at, strict=True)]
        assert "scan" in str(jax.make_jaxpr(pull)(*placed))
        found = pull(*placed)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
