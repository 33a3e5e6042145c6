"""A compiled step and its state, as a training loop of your own takes them."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from toy_run import corpus, toy

from jaxllm.distributed.mesh import make_mesh, put_batch, replicated
from jaxllm.losses.tokens import cross_entropy
from jaxllm.train.setup import init_state, prepare
from jaxllm.train.step import make_train_step
from jaxllm.types import TrainState, value

ADAM = optax.adamw(1e-2)


def steps(mesh, transform=ADAM, **changes):
    """(the state after two steps on a mesh, their losses)."""
    model, rows, losses = toy(0.0), corpus().plan.rows, []
    step, layout = prepare(model, cross_entropy, transform, mesh, **changes)
    state = init_state(model, transform, layout, seed=3)
    for i in range(2):
        state, metrics = step(state, put_batch(corpus().batch(i), mesh, rows))
        losses.append(float(value(metrics["loss"])))
    return state, losses, layout


def test_the_step_is_that_of_one_device_on_any_mesh():
    model, state = toy(0.0), None
    plain = jax.jit(make_train_step(model.graphdef, cross_entropy, ADAM, seed=0))
    params = jax.jit(model.init)(jax.random.key(3))
    state, expected = TrainState(np.int32(0), params, ADAM.init(params)), []
    for i in range(2):
        state, metrics = plain(state, corpus().batch(i))
        expected.append(float(value(metrics["loss"])))
    for text, microbatches in (("data=2,fsdp=2,tensor=2", 1), ("data=8", 2)):
        found, losses, _ = steps(make_mesh(text), microbatches=microbatches)
        assert losses == pytest.approx(expected, rel=1e-5)
        assert int(found.step) == 2
        for name, x in state.params.items():
            np.testing.assert_allclose(found.params[name], x, rtol=1e-4, atol=1e-5)


def test_every_array_lies_as_the_layout_says():
    mesh = make_mesh("data=2,fsdp=2,tensor=2")
    state, _, layout = steps(mesh)
    for x, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(layout.like), strict=True):
        assert (x.shape, x.dtype, x.sharding) == (wanted.shape, wanted.dtype, wanted.sharding)
    assert layout.params["kernel"].spec == state.opt_state[0].mu["kernel"].sharding.spec == P("fsdp", "tensor")
    assert state.step.sharding == replicated(mesh)


def test_the_state_is_donated():
    mesh, model = make_mesh("fsdp=8"), toy(0.0)
    step, layout = prepare(model, cross_entropy, ADAM, mesh)
    state = init_state(model, ADAM, layout)
    step(state, put_batch(corpus().batch(0), mesh, corpus().plan.rows))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))
