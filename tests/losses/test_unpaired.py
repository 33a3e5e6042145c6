"""Losses of single answers against TRL 1.16's KTOTrainer; packed rows against lists."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.losses import resolve
from jaxllm.losses.unpaired import AnswerLogps, kl_estimate
from jaxllm.params import split
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, value

CASES = ["kto_positive_kl", "kto_negative_kl_clamped", "kto_weighted_1.5_0.5", "kto_all_desirable", "apo_zero_unpaired"]


def test_every_case_is_here(oracle):
    assert set(CASES) == set(oracle["kto"]) - {"inputs"}


@pytest.mark.parametrize("name", CASES)
def test_oracle(oracle, x64, name):
    i, case = oracle["kto"]["inputs"], oracle["kto"][name]
    config = dict(case["config"])
    loss = resolve(config.pop("loss_type"), **config)
    ref_kl = i["ref_KL_logps_negative_kl" if "negative" in name else "ref_KL_logps_positive_kl"]
    desirable = np.array(i["label_desirable"]) | ("all_desirable" in name)
    side = [*np.where(desirable, 1, -1).tolist(), *[0] * 6]

    def answers(policy):
        one_token = [x[None] for x in policy] + [[x] for x in i["policy_KL_logps"]]
        return AnswerLogps.of(one_token, [[x] for x in (*i["ref_logps"], *ref_kl)], side)

    policy = jnp.asarray(i["policy_logps"])
    loss_value, gradient = jax.value_and_grad(lambda x: loss.mean(answers(x)))(policy)
    np.testing.assert_allclose(loss_value, case["loss"], rtol=1e-10)
    np.testing.assert_allclose(gradient, case["grad_wrt_sequence_logp"], rtol=1e-10)
    if loss.name == "kto":
        np.testing.assert_allclose(kl_estimate(answers(policy)), case["metrics"]["kl"], rtol=1e-10)
        slope = jax.grad(lambda kl: loss.mean(dataclasses.replace(answers(policy), ref_logps_B=kl)))(
            answers(policy).ref_logps_B
        )
        assert not slope[6:].any()  # no gradient through the estimate
    assert loss.couples_batch == (loss.name == "kto")
    assert loss.needs == (("mismatched",) if loss.name == "kto" else ())


def test_packed_is_ragged(packed, taught, small_chunks):
    """The rejected answer of two pairs serves as their mismatched one."""
    answers = packed.with_reference(taught.teacher).answers
    mismatched = (answers.side_BA == -1) & ((answers.pair_BA == 0) | (answers.pair_BA == 4))
    answers = dataclasses.replace(answers, side_BA=jnp.where(mismatched, 0, answers.side_BA))
    p = packed.ragged(taught.body, taught.teacher)
    u, v = np.asarray(p.chosen_ratio_B), np.asarray(p.rejected_ratio_B)
    undesirable = np.array([1, 2, 3, 5])
    loss = resolve("kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.5)
    metrics = jax.jit(loss)(taught.body, answers)
    z = max(0, v[[0, 4]].mean())
    parts = 1.5 / (1 + np.exp(0.2 * (u - z))), 0.5 / (1 + np.exp(0.2 * (z - v[undesirable])))
    wanted = {
        "loss": np.concatenate(parts).mean(),
        "kl": z,
        "rewards/chosen": 0.2 * u.mean(),
        "rewards/rejected": 0.2 * v[undesirable].mean(),
        "rewards/margins": 0.2 * (u.mean() - v[undesirable].mean()),
        "logps/chosen": np.mean(p.chosen_B),
        "logps/rejected": np.mean(p.rejected_B[undesirable]),
    }
    assert set(metrics) == set(wanted)
    for name, number in wanted.items():
        np.testing.assert_allclose(value(metrics[name]), number, rtol=1e-4, atol=1e-5)
    assert metrics["loss"].count == 10


def test_a_coupled_loss_is_not_cut(taught):
    graphdef, _ = split(taught)
    with pytest.raises(ValueError, match="kto depends on the whole batch"):
        make_train_step(graphdef, resolve("kto"), optax.sgd(0.1), seed=0, microbatches=2)
    make_train_step(graphdef, resolve("apo_zero_unpaired"), optax.sgd(0.1), seed=0, microbatches=2)


def test_refuses(packed, toy):
    with pytest.raises(InputError, match="no ref_logps_BT"):
        resolve("kto")(toy, packed.answers)
    with pytest.raises(InputError, match=r"desirable_weight=-1.0 must be 0 or above"):
        resolve("kto", desirable_weight=-1.0)
