"""Every policy loss: values, gradients and metrics of TRL 1.16's trainers in float64, and the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_cases import (
    ADVANTAGES,
    CASES,
    DEFECTS,
    IGNORED,
    ORACLE,
    OTHERS,
    PIPELINES,
    UNCOVERED,
    WITHIN,
    case_of,
    given,
    loss_of,
    padded,
)  # fmt: skip

from jaxllm.losses import PairLogps, PolicyLogps, names, policy_loss, resolve
from jaxllm.losses.advantages import advantages, leave_one_out
from jaxllm.types import InputError

pytestmark = pytest.mark.usefixtures("x64")

POLICY = [name for name in names() if resolve(name).kind == "completions"]


def close(found, wanted, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=tolerance, atol=tolerance)


def test_every_case_of_the_oracle_is_here():
    """Covered, or listed with the reason; nothing is listed that is not in the file."""
    rollouts = {f"{c['name']}{' (rollout)' * (c['name'] in PIPELINES)}" for c in ORACLE["rollouts"]}
    every = {*CASES, *OTHERS, *ADVANTAGES, *rollouts} | {f"a2po_v_star/{i}" for i in range(len(ORACLE["a2po_v_star"]))}
    covered = {*COVERED, *OTHERS_COVERED, *(name for name in ADVANTAGES if name not in UNCOVERED)}
    assert every - covered == set(UNCOVERED)
    assert (len(CASES), len(OTHERS), len(ADVANTAGES), len(PIPELINES), len(rollouts)) == (171, 18, 44, 8, 6)
    assert set(DEFECTS) <= {*COVERED, *PIPELINES}
    assert all(UNCOVERED.values())


COVERED = [name for name in CASES if name not in UNCOVERED]


@pytest.mark.parametrize("name", COVERED)
def test_value_gradients_and_metrics(name):
    raw = CASES[name]
    case = case_of(raw)
    value, (grad, grad_entropy) = jax.value_and_grad(case.value, (0, 1))(case.policy_BT, case.entropy_BT)
    close(grad, padded(raw["grad"], 0.0))
    if name in DEFECTS:  # TRL has -A of the completion without tokens beside it
        value -= sum(case.rest["advantages"][row] for row in raw["masked_out"]) / len(grad)
    if name != "gmpo/ignored_options":
        close(grad_entropy, padded(raw.get("grad_entropy", []), 0.0) if raw.get("grad_entropy") else 0.0)
    close(value, raw["loss"])
    found = case.loss.metrics(case.logps())
    for metric, wanted in raw["metrics"].items():
        if wanted is not None:  # of no token TRL has no least
            close(found[metric], wanted, 1e-7 if "clip" in metric else 1e-9)  # TRL counts what is clipped in float32


def test_ignored_options_are_refused():
    seen = set()
    for raw in CASES.values():
        name, arguments, _ = loss_of(raw)
        for option in sorted({*raw["config"]} & IGNORED.get(name, set())):
            seen.add((name, option))
            if (name, option) in {("gmpo", "entropy_coef"), ("gmpo", "off_policy_mask_threshold")}:
                continue
            with pytest.raises(InputError, match=f"loss '{name}' has no argument '{option}'"):
                resolve(name, **arguments, **{option: raw["config"][option]})
    assert seen == {(name, option) for name, options in IGNORED.items() for option in options}


def other(name):
    """(loss, items) of what other trainers of TRL compute with GRPO's term."""
    trainer, _, kind = name.partition("/")
    config = {"epsilon": 0.2, "epsilon_high": 0.28}
    if trainer == "sdpo":
        return resolve({"dapo": "bnpo"}.get(kind, kind), **config), None  # SDPO's "dapo" is bnpo
    return resolve("dapo", **config), {"": None, "two_processes/accumulate3": 100 / 2 * 3}[kind]


OTHERS_COVERED = [name for name in OTHERS if name.startswith(("sdpo", "async_grpo"))]


@pytest.mark.parametrize("name", OTHERS_COVERED)
def test_other_trainers_with_the_same_term(name):
    raw, (loss, items) = OTHERS[name], other(name)

    def logps(policy_BT):
        old, weights = given("old"), np.array(ORACLE["inputs"]["advantages"])
        return PolicyLogps.of(policy_BT, old, WITHIN, weights, items=items, max_length=16, entropy_BT=given("entropy"))

    policy_BT = jnp.asarray(np.nan_to_num(given("policy")))
    value, grad = jax.value_and_grad(lambda policy_BT: loss.mean(logps(policy_BT)))(policy_BT)
    close(value, raw["loss"])
    close(grad, padded(raw["grad"], 0.0))
    found = loss.metrics(logps(policy_BT))
    for metric, wanted in raw.get("metrics", {}).items():
        if metric != "kl":  # AsyncGRPO's is from the old policy
            close(found[metric], wanted, 1e-7 if "clip" in metric else 1e-9)


@pytest.mark.parametrize("name", PIPELINES)
def test_rewards_to_advantages_to_loss(name):
    """What TRL's trainers do with rewards, in two functions here."""
    raw = PIPELINES[name]
    config = {**raw["config"]}
    rewards = np.array(raw["rewards"], float).reshape(len(raw["rewards"]), -1, ORACLE["inputs"]["group_size"])
    mask = WITHIN.copy()
    if config.pop("mask_truncated_completions", False):
        mask[raw["truncated"]] = False
    iterations, scale = config.pop("num_iterations", 1), config.pop("scale_rewards", "group")
    loss_name = config.pop("loss_type", "dapo")
    if raw["trainer"] == "RLOOTrainer":
        loss_name, iterations, beta = "rloo", 2, config.pop("beta")
        kl = np.where(mask, given("old") - given("ref"), 0).sum(1).reshape(rewards.shape[1:])
        A = leave_one_out(rewards, beta=beta, kl=kl).reshape(-1)
    else:
        A = advantages(rewards, scale_rewards=scale).reshape(-1)
    if loss_name == "dapo":
        config.setdefault("epsilon_high", None)
    loss = resolve(loss_name, **config)

    def mean(policy_BT):
        old = given("old") if iterations > 1 else None
        return loss.mean(PolicyLogps.of(policy_BT, old, mask, A, ref_BT=given("ref"), max_length=16))

    value, grad = jax.value_and_grad(mean)(jnp.asarray(np.nan_to_num(given("policy"))))
    if name in DEFECTS:
        value -= A[raw["truncated"]].sum() / len(A)
    close(A, raw["advantages"])
    close(value, raw["loss"])
    close(grad, padded(raw["grad"], 0.0))


def completions(seed=0, rows=5, length=7):
    """Random completions, of which one has no tokens, and an argument for each field."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length)[None, :] < np.array([7, 3, 0, 5, 1])[:, None]
    policy = -rng.exponential(1.0, (rows, length))
    around = lambda by: policy + rng.normal(0, by, (rows, length))
    rest = {"ref_BT": around(0.3), "entropy_BT": rng.uniform(0, 2, (rows, length)), "sampler_BT": around(0.1)}
    return policy, (around(0.3), mask, rng.normal(size=rows)), {**rest, "max_length": 9}


ALL = {
    "beta": 0.3, "entropy_coef": 0.2, "off_policy_mask_threshold": 0.05,
    "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.05,
}  # fmt: skip


@pytest.mark.parametrize("extra", [False, True], ids=["plain", "all"])
@pytest.mark.parametrize("name", POLICY)
def test_gradients_are_those_of_finite_differences(name, extra):
    """Of what has a gradient: what the loss holds still, such as CISPO's weight, is held at its value."""
    policy, data, rest = completions()
    takes = {**resolve(name).own, **resolve(name).shared}
    loss = resolve(name, **{x: v for x, v in ALL.items() if x in takes} if extra else {})
    grad = jax.grad(lambda x: loss.mean(PolicyLogps.of(x, *data, **rest)))(jnp.asarray(policy))
    stops = []
    fixed = lambda x: stops.append(x) or x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "stop_gradient", fixed)
        loss.mean(PolicyLogps.of(policy, *data, **rest))

    def mean(x):
        held = iter(stops)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "stop_gradient", lambda x: next(held))
            return float(loss.mean(PolicyLogps.of(x, *data, **rest)))

    for at in [(0, 0), (0, 3), (1, 2), (2, 0), (3, 4), (4, 0), (4, 5)]:
        step = np.zeros_like(policy)
        step[at] = 1e-6
        close(grad[at], (mean(policy + step) - mean(policy - step)) / 2e-6, 1e-6)
    assert not np.asarray(grad)[~data[1]].any()


def test_the_gradients_of_grpo_and_reinforce_in_closed_form():
    policy, (old, mask, A), _ = completions()
    inside = jax.grad(lambda x: resolve("grpo").mean(PolicyLogps.of(x, old, mask, A)))(jnp.asarray(policy))
    ratio, n = np.exp(policy - old), np.maximum(mask.sum(1, keepdims=True), 1)
    free = np.where(A[:, None] > 0, ratio < 1.2, ratio > 0.8)
    close(inside, np.where(mask & free, -A[:, None] * ratio / n / len(A), 0))
    score = jax.grad(lambda x: resolve("reinforce").mean(PolicyLogps.of(x, None, mask, A)))(jnp.asarray(policy))
    close(score, np.where(mask, -A[:, None] / len(A), 0))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_are_near_the_divergence(estimator):
    """Over all tokens of a distribution, times their probabilities: k1 and k3 exactly, k2 nearly."""
    rng = np.random.default_rng(4)
    p, r = (jax.nn.log_softmax(jnp.asarray(rng.normal(size=6) * by)) for by in (0.3, 0.2))
    logps = PolicyLogps.of(p[None], None, np.ones((1, 6)), [0.0], ref_BT=r[None])
    loss = resolve("reinforce", beta=1.0, kl_estimator=estimator, use_bias_correction_kl=False)
    estimate = float(jnp.sum(jnp.exp(p) * loss.per_token(logps)[0]))
    close(estimate, float(jnp.sum(jnp.exp(p) * (p - r))), 0.05 if estimator == "k2" else 1e-9)


def test_one_name_gives_the_same_numbers_under_jit_grad_and_vmap():
    policy, data, rest = completions()
    loss = resolve("dapo", beta=0.1, top_entropy_quantile=0.5)
    mean = lambda x: loss.mean(PolicyLogps.of(x, *data, **rest))
    several = jnp.stack([policy, policy - 0.1, policy + 0.05])
    close(jax.vmap(jax.jit(mean))(several), [mean(x) for x in several])
    close(jax.jit(jax.grad(mean))(several[1]), jax.grad(mean)(several[1]))


def test_arguments_may_be_traced():
    policy, data, rest = completions()
    p = PolicyLogps.of(policy, *data, **rest)
    of = lambda x: resolve("grpo", epsilon=x, delta=1 + x, beta=x, entropy_coef=x).mean(p)
    close(jax.vmap(of)(jnp.array([0.1, 0.2])), [of(0.1), of(0.2)])


def test_what_is_outside_the_mask_may_be_anything():
    policy, (old, mask, A), rest = completions()
    loss = resolve("grpo", beta=0.1, entropy_coef=0.1, off_policy_mask_threshold=0.0)
    spoilt = {x: np.where(mask, v, np.nan) if np.ndim(v) == 2 else v for x, v in rest.items()}
    mean = lambda x, old, rest: loss.mean(PolicyLogps.of(x, old, mask, A, **rest))
    wanted = jax.value_and_grad(mean)(jnp.asarray(policy), old, rest)
    found = jax.value_and_grad(mean)(jnp.where(mask, policy, jnp.nan), np.where(mask, old, np.nan), spoilt)
    jax.tree.map(close, found, wanted)


def test_a_slot_without_a_completion_counts_nowhere_and_a_masked_completion_counts():
    policy, (old, mask, A), _ = completions()
    present = [0, 1, 3, 4]
    for name, same in (("grpo", False), ("bnpo", True)):
        loss = resolve(name)
        few = loss.mean(PolicyLogps.of(policy[present], old[present], mask[present], A[present]))
        weight = np.array([1.0, 1, 0, 1, 1])
        close(loss.mean(PolicyLogps.of(policy, old, mask, A, weight_B=weight)), few)
        whole = loss.mean(PolicyLogps.of(policy, old, mask, A))
        close(whole, few if same else few * 4 / 5)


def test_mixtures_are_sums():
    policy, data, rest = completions()
    p = PolicyLogps.of(policy, *data, **rest)
    loss = resolve("grpo:0.7+cispo:0.3", **{"grpo.beta": 0.1, "epsilon_high": 0.5})
    parts = 0.7 * resolve("grpo", beta=0.1, epsilon_high=0.5).mean(p) + 0.3 * resolve("cispo", epsilon_high=0.5).mean(p)
    close(loss.mean(p), parts)
    assert loss.reference
    with pytest.raises(InputError, match="losses of pairs and of completions do not mix"):
        resolve("grpo+dpo")


def test_the_means_of_a_loss_of_ones():
    """Each reduction on completions of 7, 3, 0, 5 and 1 tokens."""
    policy, (old, mask, A), _ = completions()
    means = {"token mean": 16 / 20, "batch token mean": 1, "sequence mean": 4 / 5, "sequence sum": 16 / 5}
    for reduction, wanted in {**means, "constant": 16 / (5 * 9)}.items():

        @policy_loss(reduction=reduction)
        def ones(p):
            return jnp.ones_like(p.policy_BT)

        close(ones.mean(PolicyLogps.of(policy, old, mask, A, items=20, max_length=9)), wanted)


def test_the_metrics_of_pairs_by_name():
    pairs = PairLogps.of([[-1.0], [-2.0]], [[-3.0], [-1.0]], [[-1.0], [-1.0]], [[-1.0], [-1.0]])
    found = resolve("dpo", beta=0.5).metrics(pairs)
    assert found["rewards/accuracies"] == 0.5
    close(found["rewards/margins"], 0.5 * (2.0 - 1.0) / 2)
