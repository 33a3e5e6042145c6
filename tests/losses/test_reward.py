"""The reward model's loss against TRL 1.16's RewardTrainer, and the reward read at an answer's last token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.losses import resolve
from jaxllm.losses.preference import PairLogps
from jaxllm.types import InputError, value

CASES = {
    "bradley_terry": (False, 0.0),
    "with_margin": (True, 0.0),
    "center_0.01": (False, 0.01),
    "margin_and_center_0.01": (True, 0.01),
}


def test_every_case_is_here(oracle):
    assert set(CASES) == set(oracle["reward"]) - {"inputs"}


@pytest.mark.parametrize("name", CASES)
def test_oracle(oracle, x64, name):
    i, case, (with_margin, center) = oracle["reward"]["inputs"], oracle["reward"][name], CASES[name]
    loss = resolve("bradley_terry", center=center)
    margin = i["margin"] if with_margin else None

    def pairs(chosen, rejected):
        return PairLogps.of([x[None] for x in chosen], [x[None] for x in rejected], margin=margin)

    rewards = jnp.asarray(i["rewards_chosen"]), jnp.asarray(i["rewards_rejected"])
    loss_value, gradients = jax.value_and_grad(lambda *x: loss.mean(pairs(*x)), argnums=(0, 1))(*rewards)
    np.testing.assert_allclose(loss_value, case["loss"], rtol=1e-10)
    np.testing.assert_allclose(gradients[0], case["grad_wrt_chosen"], rtol=1e-10)
    np.testing.assert_allclose(gradients[1], case["grad_wrt_rejected"], rtol=1e-10)
    metrics = loss.function.metrics(pairs(*rewards), **loss.arguments)
    assert set(metrics) == {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
    np.testing.assert_allclose(metrics["rewards/accuracies"].value(), case["metrics"]["accuracy"], rtol=1e-10)
    np.testing.assert_allclose(metrics["rewards/margins"].value(), case["metrics"]["margin"], rtol=1e-10)
    mean = (metrics["rewards/chosen"].value() + metrics["rewards/rejected"].value()) / 2
    np.testing.assert_allclose(mean, case["metrics"]["mean_reward"], rtol=1e-10)


def test_packed_rows(packed, scorer):
    """The head's number at the last token of each answer that is learned from; the chosen answer's margin."""
    margin = jnp.where(packed.answers.side_BA == 1, 0.1 * packed.answers.pair_BA, 7.0)
    answers = dataclasses.replace(packed.answers, margin_BA=margin)
    hidden, _ = scorer.hidden(answers.batch)
    reward = np.asarray(hidden @ scorer.out[...])[..., 0]
    chosen, rejected = (np.array([reward[x[0], x[i][-1]] for x in packed.places]) for i in (1, 2))
    wanted = np.log1p(np.exp(-(chosen - rejected - 0.1 * np.arange(6)))) + 0.05 * (chosen + rejected) ** 2
    metrics = jax.jit(resolve("bradley_terry", center=0.05))(scorer, answers)
    np.testing.assert_allclose(value(metrics["loss"]), wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(value(metrics["rewards/accuracies"]), np.mean(chosen > rejected), rtol=1e-6)
    assert metrics["loss"].count == 6


def test_the_head_of_a_language_model_is_refused(packed, toy):
    with pytest.raises(InputError, match="a reward model's head gives 1 number per token, this one 11"):
        resolve("bradley_terry")(toy, packed.answers)
