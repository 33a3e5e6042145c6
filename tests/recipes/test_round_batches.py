"""Advantages of a round with the divergence from a reference in the reward."""

import numpy as np
import pytest

from jaxllm.losses.advantages import advantages, leave_one_out
from jaxllm.recipes.round_batches import Batches
from jaxllm.recipes.round_record import Round

LENGTHS = np.array([[2, 1], [3, 2]])
REWARDS = np.array([[[1.0, 0.0], [0.5, 2.0]]])


def round_of(old_logps=None):
    draw = np.random.default_rng(0)
    logps, ref = (draw.normal(-2, 0.3, 8).astype(np.float32) for _ in range(2))
    return Round(0, np.arange(2), LENGTHS, np.arange(8, dtype=np.int32), logps, np.ones((2, 2), bool), REWARDS,
                 old_logps, ref)  # fmt: skip


@pytest.mark.parametrize(
    ("estimator", "of"),
    [("k1", lambda old, ref: old - ref), ("k2", lambda old, ref: (old - ref) ** 2 / 2),
     ("k3", lambda old, ref: np.exp(ref - old) - 1 - (ref - old))],
)  # fmt: skip
def test_the_divergence_is_taken_off_the_reward(estimator, of):
    found = round_of()
    each = of(found.logps.astype(np.float64), found.ref_logps.astype(np.float64))
    kl = np.array([[each[:2].sum(), each[2:3].sum()], [each[3:6].sum(), each[6:].sum()]])
    for baseline, expected in (("leave_one_out", leave_one_out(REWARDS, beta=0.3, kl=kl)),
                               ("group", advantages(REWARDS - 0.3 * kl))):  # fmt: skip
        batches = Batches("completions", 2, 4, 3, 2, [1.0], baseline, reward_kl=0.3, kl_estimator=estimator)
        np.testing.assert_allclose(batches.advantages(found), expected, atol=1e-12)
    assert np.abs(kl).min() > 1e-3


def test_it_is_of_the_policy_that_sampled_as_training_computes_it():
    old = round_of().logps + np.float32(0.1)
    first, second = (Batches("completions", 2, 4, 3, 2, [1.0], "leave_one_out", reward_kl=1.0).advantages(one)
                     for one in (round_of(), round_of(old)))  # fmt: skip
    np.testing.assert_allclose((second - first)[0], [-0.1, 0.1], atol=1e-6, err_msg="one token more than the other")
