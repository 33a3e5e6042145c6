"""Advantages: every case of TRL 1.16's trainers that is covered, and properties of groups."""

import numpy as np
import pytest
from policy_cases import ADVANTAGES, LENGTHS, ORACLE, UNCOVERED

from jaxllm.losses.advantages import advantages, combine, leave_one_out, reward_metrics
from jaxllm.types import InputError

G = ORACLE["inputs"]["group_size"]
IGNORED = {"gdpo/two_functions/scale_none": "scale_rewards"}
"""TRL takes this without effect; here it is refused, and the case is that of the others."""
FLAT = {"one_scorable_in_group", "no_scorable_in_group"}
"""TRL does not count groups without a deviation among those without a signal, nor any unless it scales by group."""


def kl():
    each = zip(ORACLE["inputs"]["old"], ORACLE["inputs"]["ref"], LENGTHS, strict=True)
    return np.array([np.sum(np.array(old[:n]) - np.array(ref[:n])) for old, ref, n in each]).reshape(-1, G)


@pytest.mark.parametrize("name", [name for name in ADVANTAGES if name not in UNCOVERED])
def test_advantages_and_metrics(name):
    case = ADVANTAGES[name]
    arguments = {x: v for x, v in case["config"].items() if x != IGNORED.get(name)}
    rewards = np.array(case["rewards"], float).reshape(len(case["rewards"]), -1, G)
    if case["trainer"] == "RLOOTrainer":
        found = leave_one_out(rewards, kl=kl(), **arguments)
    else:
        found = advantages(rewards, **arguments)
    np.testing.assert_allclose(found.reshape(-1), case["advantages"], rtol=1e-9, atol=1e-9)
    metrics = reward_metrics(rewards, arguments.get("reward_weights"))
    kind, _, data = name.partition("/")
    for metric, wanted in case["metrics"].items():
        if metric == "kl":
            continue  # of the rollout, which is not given
        if metric == "frac_reward_zero_std" and (data in FLAT or (kind in ("batch", "gdpo") and "equal" in data)):
            wanted = 0.5
        assert metrics[metric] == pytest.approx(wanted, rel=1e-9, nan_ok=True), metric


def test_a_choice_without_effect_is_refused():
    for name, argument in IGNORED.items():
        config = ADVANTAGES[name]["config"]
        assert argument in config
        with pytest.raises(InputError, match="scale_rewards='none' has no effect under normalize_then_sum"):
            advantages([[1.0, 2.0]], **config)


def test_advantages_of_a_group_sum_to_zero_and_do_not_see_a_shift():
    rewards = np.random.default_rng(0).normal(size=(5, 4))
    for found in (
        advantages(rewards), advantages(rewards, scale_rewards="batch"), advantages(rewards, scale_rewards="none"),
        leave_one_out(rewards),
    ):  # fmt: skip
        np.testing.assert_allclose(found.sum(-1), 0, atol=1e-9)
    shift = np.arange(5.0)[:, None]
    np.testing.assert_allclose(advantages(rewards + shift), advantages(rewards), atol=1e-9)
    np.testing.assert_allclose(leave_one_out(rewards + shift), leave_one_out(rewards), atol=1e-9)
    np.testing.assert_allclose(leave_one_out(rewards), advantages(rewards, scale_rewards="none") * 4 / 3, atol=1e-12)


def test_missing_rewards():
    """One function's counts 0; where all miss, the completion has no reward and is in no mean."""
    nan = np.nan
    rewards = np.array([[[1.0, nan, 3.0]], [[nan, nan, 1.0]]])
    np.testing.assert_array_equal(combine(rewards, [1.0, 2.0]), [[1.0, nan, 5.0]])
    np.testing.assert_allclose(advantages(rewards, reward_weights=[1, 2], scale_rewards="none"), [[-2.0, 0, 2]])
    np.testing.assert_array_equal(leave_one_out(rewards, reward_weights=[1, 2]), [[-4.0, 0, 4]])
    alone = np.array([[nan, 2.0, nan], [nan, nan, nan]])
    for found in (advantages(alone), leave_one_out(alone), leave_one_out(alone, normalize_advantages=True)):
        np.testing.assert_array_equal(found, np.zeros((2, 3)))
    assert advantages([[None, 1.0, 2.0]]).shape == (1, 3)
    assert reward_metrics(alone, names=["exact"])["frac_reward_zero_std"] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: advantages([1.0, 2.0]), r"rewards have the shape \[2\]; \[groups, G\] or"),
        (lambda: advantages([[1.0], [2.0]]), "a group has 1 completion, .*: sample 2 or more a prompt"),
        (lambda: leave_one_out([[1.0, np.inf]]), "a reward is infinite"),
        (lambda: advantages([[[1.0, 2]], [[1, 2]]], reward_weights=[1]), "2 reward functions have 1 reward_weights"),
        (lambda: advantages([[1.0, 2]], scale_rewards="groups"), "scale_rewards='groups': give one of group, batch"),
        (lambda: advantages([[1.0, 2]], multi_objective_aggregation="sum"), "multi_objective_aggregation='sum': give"),
        (lambda: leave_one_out([[1.0, 2]], beta=0.1), r"give kl of the shape \[1, 2\]"),
        (lambda: reward_metrics([[1.0, 2]], names=["a", "b"]), "2 names for 1 reward functions"),
    ],
)
def test_bad_rewards(call, message):
    with pytest.raises(InputError, match=message):
        call()
