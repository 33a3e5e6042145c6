"""Means that travel, and the pytrees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.types import Answers, Batch, InputError, Mean, Rollouts, TrainState, terms, value


def test_a_mean_is_divided_once():
    parts = [(np.array([1.0, 2.0]), np.array([1.0, 0.5])), (np.array([7.0]), np.array([3.0]))]
    total = sum((Mean((x * w).sum(), w.sum()) for x, w in parts), Mean(0.0, 0.0))
    x, w = (np.concatenate(p) for p in zip(*parts, strict=True))
    assert total.value() == pytest.approx(np.average(x, weights=w))


@pytest.mark.parametrize("zero", [0.0, jnp.zeros(())])
def test_nothing_counted_is_zero_with_a_finite_gradient(zero):
    assert Mean(zero, zero).value() == 0
    assert jax.grad(lambda total: Mean(total, jnp.zeros(())).value())(0.0) == 0


def test_terms_are_weighted_means():
    mean = Mean(6.0, 3.0)
    assert terms(mean) == ((1.0, mean),)
    both = ((0.5, mean), (2.0, Mean(1.0, 4.0)))
    assert terms(both) == both
    assert value(both) == pytest.approx(0.5 * 2.0 + 2.0 * 0.25)
    assert value(mean) == 2.0


def test_batches_are_frozen_trees_of_their_arrays():
    batch = Batch(*(np.full((2, 3), i) for i in range(5)))
    answers = Answers(batch, *(np.full((2, 3), i) for i in range(5, 10)))
    assert [int(x[0, 0]) for x in jax.tree.leaves(answers)] == list(range(10)), "None is no leaf"
    rollouts = Rollouts(batch, *(np.full((2, 3), i) for i in range(5, 8)), max_length=9)
    assert [int(x[0, 0]) for x in jax.tree.leaves(rollouts)] == list(range(8)), "nor is max_length"
    assert jax.jit(lambda x: x)(rollouts).max_length == 9
    doubled = jax.jit(lambda b: jax.tree.map(lambda x: 2 * x, b))(batch)
    assert isinstance(doubled, Batch)
    assert doubled.branches_BT is None
    assert int(doubled.positions_BT[0, 0]) == 8
    state = TrainState(np.int32(0), {}, ())
    for x, name in ((batch, "tokens_BT"), (state, "step"), (Mean(0, 0), "total")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(x, name, 1)


def test_bad_input_is_a_value_error():
    assert issubclass(InputError, ValueError)
