"""Moments in fewer bits: errors by closed form, what a skipped step keeps, bytes and shardings, and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses.tokens import cross_entropy
from jaxllm.train import moments
from jaxllm.train.moments import block, kept_as, pack, table, unpack
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.train.optimizers import adam
from jaxllm.train.setup import init_state, prepare, put
from jaxllm.types import InputError

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(3, 1024)) * 10.0 ** RNG.uniform(-4, 0, (3, 1024))).astype(np.float32)


@pytest.mark.parametrize("root", [False, True])
def test_a_number_comes_back_as_the_middle_of_its_part_and_again_as_itself(root):
    x = np.square(X) if root else X
    once = jax.jit(lambda x: unpack(pack(x, root=root)))
    found = np.asarray(once(x))
    np.testing.assert_array_equal(found, once(found))  # so that a skipped step keeps the state bit for bit
    plain, back = (np.sqrt(x), np.sqrt(found)) if root else (x, found)
    most = np.abs(plain).reshape(3, 4, 256).max(-1).repeat(256, -1)
    np.testing.assert_array_equal(np.abs(back)[np.abs(plain) == most], most[np.abs(plain) == most])
    share, error = np.abs(plain) / most, np.abs(back - plain) / most
    for decade in range(7):
        parts = (2 if root else 1) << decade
        low = 10.0 ** (decade - 7)
        here = (share >= low) & (share < 10 * low)
        half = 0.45 * 10 * low / parts
        assert error[here].max() <= (2 * half if decade == 6 else half) * 1.001  # the topmost part is the largest's
        assert error[here].max() > half / 2
    assert ((found == 0) == (x == 0)).all() or not root


def test_the_scale_is_256_values_with_zero_and_the_largest():
    for first in (1, 2):
        shares = table(first)
        assert len(shares) == 127 * first + 1
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert (np.diff(shares) > 0).all()


@pytest.mark.parametrize("length", [1, 63, 256, 688, 4096, 50257, 1031])
def test_blocks_divide_an_axis_where_something_does(length):
    size = block(length)
    assert size <= 256
    assert length % size == 0 or all(length % n for n in range(64, 257))
    x = RNG.normal(size=(2, length)).astype(np.float32)
    packed = pack(jnp.asarray(x))
    assert packed.scales.shape == (2, -(-length // size))
    np.testing.assert_allclose(unpack(packed), x, atol=0.08 * np.abs(x).max())


def test_zeros_stay_zeros():
    np.testing.assert_array_equal(unpack(pack(jnp.zeros((2, 300)))), 0)


def test_a_second_moment_in_bfloat16_falls_as_in_float32():
    """With a decay of 0.999, which rounding to nearest would leave where it is."""
    state = optax.ScaleByRmsState(nu={"x": jnp.full((64, 128), 3.0)})
    inner = optax.GradientTransformation(
        lambda params: (jnp.int32(0), state),
        lambda g, s, p=None: (g, (s[0] + 1, jax.tree.map(lambda v: 0.999 * v, s[1]))),
    )
    kept = kept_as("bfloat16", inner)
    now = kept.init({})
    update = jax.jit(kept.update)
    for _ in range(300):
        _, now = update({}, now)
    assert now[1].nu["x"].dtype == jnp.bfloat16
    assert float(jnp.mean(now[1].nu["x"].astype(jnp.float32))) == pytest.approx(3 * 0.999**300, rel=2e-3)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_adam_moves_as_with_its_own_moments_and_keeps_them_where_told(kind):
    grads = [{"w": jnp.asarray(RNG.normal(size=(32, 256)) * 1e-3, jnp.float32)} for _ in range(8)]
    whole, kept = adam(0.9, 0.99, 1e-8), kept_as(kind, adam(0.9, 0.99, 1e-8))
    states = [whole.init(grads[0]), kept.init(grads[0])]
    updates = [jax.jit(one.update) for one in (whole, kept)]
    moved = [jnp.zeros((32, 256))] * 2
    for grad in grads:
        for i in range(2):
            step, states[i] = updates[i](grad, states[i], grad, ok=True)
            moved[i] += step["w"]
    error = np.asarray(moved[1] - moved[0])
    assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(np.asarray(moved[0]) ** 2))
    leaf = states[1].mu["w"]
    assert (leaf.codes.dtype if kind == "int8" else leaf.dtype) == (jnp.int8 if kind == "int8" else jnp.bfloat16)
    _, same = updates[1](grads[0], states[1], grads[0], ok=False)
    jax.tree.map(np.testing.assert_array_equal, same, states[1])


def test_an_unknown_kind_is_named():
    with pytest.raises(InputError, match="--moments int4: give one of float32, bfloat16, int8"):
        kept_as("int4", adam(0.9, 0.99, 1e-8))


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_run_with_packed_moments_learns_is_sharded_and_comes_back_from_disk(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "SMALL", 16)
    jit, spec, batch = strategy == "jit", toy_run.toy(0.0), toy_run.corpus().batch(0)
    mesh = make_mesh("fsdp=8" if jit else "data=8")
    optimizer = make_optimizer(OptimConfig(moments="int8"), spec.graphdef.abstract, optax.constant_schedule(0.03))
    step, layout = prepare(spec, cross_entropy, optimizer, mesh, microbatches=2 if jit else 1, strategy=strategy)
    state, rows = init_state(spec, optimizer, layout), len(batch.tokens_BT)
    held = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sum(x.nbytes for x in held) == 2 * sum(x.size + 4 * x.shape[0] for x in spec.graphdef.abstract.values())
    for x in held:
        assert x.addressable_shards[0].data.nbytes * (8 if jit else 1) == x.nbytes
    losses = []
    for _ in range(6):
        state, metrics = step(state, put(batch, mesh, rows, range(rows), strategy))
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0] - 0.3
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(6, state, {})
    found, _ = checkpoints.restore(
        6, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    )
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, found, state)
