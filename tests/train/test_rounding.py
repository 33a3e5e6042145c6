"""Stochastic rounding: its expectation, what it leaves alone, and parameters that move by less than a half."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run

from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses.tokens import cross_entropy
from jaxllm.params import stored_as
from jaxllm.train.rounding import moved, to_bfloat16
from jaxllm.train.setup import init_state, prepare, put


def test_the_expectation_is_the_number_itself():
    share = np.array([0.0, 0.1, 0.25, 0.5, 0.9], np.float32)  # of the way from 1 to the next of bfloat16
    x = jnp.broadcast_to(1 + jnp.asarray(share) / 128, (200_000, 5))
    found = np.asarray(to_bfloat16(x, jnp.uint32(7)).astype(jnp.float32))
    assert set(np.unique(found)) == {1.0, 1 + 1 / 128}
    up = (found > 1).mean(0)
    # Five standard errors of a share of 200,000.
    np.testing.assert_allclose(up, share, atol=5 * np.sqrt(0.25 / 200_000))
    assert up[0] == 0


def test_seeds_and_places_are_independent():
    x = jnp.full((100, 1000), 1 + 0.5 / 128)
    a, b = (np.asarray(to_bfloat16(x, jnp.uint32(seed)) > 1) for seed in (1, 2))
    for one, other in ((a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1])):
        assert abs(np.mean(one == other) - 0.5) < 0.01


def test_what_is_not_finite_and_what_fits_stays():
    x = jnp.asarray([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.5, -3.0, 2.0**-126], jnp.float32)
    np.testing.assert_array_equal(to_bfloat16(x, jnp.uint32(3)).astype(jnp.float32), x)


def test_other_types_move_as_optax_moves_them():
    params, updates = {"a": jnp.float32(1.0), "b": jnp.arange(3.0)}, {"a": jnp.float32(1e-4), "b": jnp.ones(3)}
    jax.tree.map(
        np.testing.assert_array_equal, moved(params, updates, jnp.uint32(0)), optax.apply_updates(params, updates)
    )


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_steps_too_small_for_bfloat16_add_up_and_devices_agree(strategy):
    spec, batch = stored_as(toy_run.toy(0.0), "bfloat16"), toy_run.corpus().batch(0)
    mesh, rows = make_mesh("fsdp=8" if strategy == "jit" else "data=8"), len(batch.tokens_BT)
    optimizer = optax.chain(optax.scale_by_sign(), optax.scale(-1e-3))  # below half of a last place of most numbers
    step, layout = prepare(spec, cross_entropy, optimizer, mesh, strategy=strategy)
    state, losses = init_state(spec, optimizer, layout), []
    assert {x.dtype for x in state.params.values()} == {jnp.dtype(jnp.bfloat16)}
    for _ in range(40):
        state, metrics = step(state, put(batch, mesh, rows, range(rows), strategy))
        losses.append(float(metrics["loss"].value()))
    full = init_state(toy_run.toy(0.0), optimizer, prepare(toy_run.toy(0.0), cross_entropy, optimizer, mesh)[1])
    for name, x in state.params.items():
        if strategy == "pmap":
            for shard in x.addressable_shards:
                np.testing.assert_array_equal(shard.data, x)
        assert np.abs(np.asarray(x, np.float32) - full.params[name]).mean() > 0.01, name
    assert losses[-1] < losses[0] - 0.03
