"""Every loss of pairs: values and gradients of TRL 1.16 (DPOTrainer, CPOTrainer, ORPOTrainer), or the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.losses import resolve
from jaxllm.losses.pairs import pairs_of
from jaxllm.losses.preference import PairLogps, Tokens

pytestmark = pytest.mark.usefixtures("x64")

RENAMED = {"f_div": "f_divergence", "f_alpha": "f_alpha"}
DPO_CASES = [
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm", "mpo"),
    *("sigmoid/beta0.5", "sigmoid/beta0.01", "ipo/beta0.5", "discopop/tau0.5"),
    *(f"{name}/label_smoothing0.1" for name in ("robust", "aot", "aot_unpaired", "exo_pair")),
    *(
        f"{name}/{divergence}"
        for name in ("sigmoid", "hinge", "ipo", "robust", "discopop", "exo_pair", "sigmoid_norm")
        for divergence in ("forward_kl", "js_divergence", *(f"alpha_divergence_{a}" for a in ("0.5", "2.0", "1.0")))
    ),
    *(
        f"{name}/wpo"
        for name in (
            *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
            *("apo_zero", "apo_down", "discopop", "sigmoid_norm"),
        )
    ),
    *(f"sigmoid/ld_alpha{a}" for a in ("0.0", "0.5", "1.0")),
]


def inputs(oracle):
    """Policy and reference, as PairLogps.of takes them: ragged lists."""
    i = oracle["inputs"]
    policy = tuple([jnp.asarray(x) for x in i[f"policy_{side}_token_logps"]] for side in ("chosen", "rejected"))
    rest = {
        "ref_chosen": i["ref_chosen_token_logps"],
        "ref_rejected": i["ref_rejected_token_logps"],
        "log_sum_sq_chosen": i["log_sum_sq_probs_chosen"],
        "log_sum_sq_rejected": i["log_sum_sq_probs_rejected"],
    }
    return policy, rest


@pytest.fixture(scope="module")
def given(oracle):
    """The oracle's pairs, and what makes a gradient in them one in every token of the policy's answers."""
    with jax.enable_x64(True):
        policy, rest = inputs(oracle)
        return jax.vjp(jax.jit(lambda policy: PairLogps.of(*policy, **rest)), policy)


def value_and_gradients(loss, policy, rest):
    """The batch's loss, and its gradient in every token of the chosen and of the rejected."""
    return jax.value_and_grad(lambda policy: loss.mean(PairLogps.of(*policy, **rest)))(policy)


def finite_differences(fn, policy, at=0, step=1e-6):
    """Of fn(policy), in the `at`-th token of each answer, as two arrays."""

    def moved(side, i, by):
        rows = tuple([np.array(x) for x in policy[s]] for s in (0, 1))
        rows[side][i][at] += by
        return rows

    def slope(side, i):
        return (fn(moved(side, i, step)) - fn(moved(side, i, -step))) / (2 * step)

    return [np.array([slope(side, i) for i in range(len(policy[0]))]) for side in (0, 1)]


def close(actual, desired, rtol):
    desired = np.asarray(desired)
    np.testing.assert_allclose(np.asarray(actual), desired, rtol=rtol, atol=rtol * np.abs(desired).max())


def resolved(config):
    arguments = {RENAMED.get(k, k): x for k, x in config.items() if k not in ("loss_type", "loss_weights")}
    parts = zip(config["loss_type"], config.get("loss_weights", [1.0] * 3), strict=False)
    return resolve("+".join(f"{name}:{weight}" for name, weight in parts), **arguments)


def test_every_case_of_the_oracle_is_here(oracle):
    names = {case["name"] for case in oracle["dpo"]["cases"]}
    assert names == {f"dpo/{name}" for name in DPO_CASES} | {"dpo/sigmoid/label_smoothing0.1_IGNORED"}
    assert len(names) == len(oracle["dpo"]["cases"]) == 75


@pytest.mark.parametrize("name", DPO_CASES)
def test_dpo_family(oracle, given, name):
    case = next(case for case in oracle["dpo"]["cases"] if case["name"] == f"dpo/{name}")
    loss, (pairs, in_tokens) = resolved(case["config"]), given
    rtol = 2e-6 if "exo_pair" in name or "alpha_divergence" in name else 1e-10
    loss_value, in_pairs = jax.value_and_grad(loss.mean, allow_int=True)(pairs)
    (gradients,) = in_tokens(in_pairs)
    close(loss_value, case["batch_mean_loss"], rtol)
    if "aot" not in name:  # which is a property of a batch
        close(loss.per_pair(pairs), case["per_pair_loss_batch_of_1"], rtol)
    for side, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        for which, at in (("first", 0), ("last", -1)):
            wanted = case.get(f"grad_of_batch_loss_wrt_{side}_{which}_token_logp")
            if wanted is not None and name != "hinge/wpo":
                close([g[at] for g in gradient], wanted, rtol)


def test_hinge_wpo_gradient(oracle):
    """TRL 1.16's backward pass fails here. A pair's weight has no gradient, so the differences are of the bare loss."""
    policy, rest = inputs(oracle)
    _, gradients = value_and_gradients(resolve("hinge", beta=0.1, use_weighting=True), policy, rest)
    hinge = resolve("hinge", beta=0.1)
    here = PairLogps.of(*policy, **rest)
    weight = resolve("hinge", beta=0.1, use_weighting=True).per_pair(here) / hinge.per_pair(here)
    moved = finite_differences(lambda x: float(jnp.mean(weight * hinge.per_pair(PairLogps.of(*x, **rest)))), policy)
    for gradient, wanted in zip(gradients, moved, strict=True):
        close([g[0] for g in gradient], wanted, 1e-7)
        assert np.abs(wanted).min() > 1e-4


def test_label_smoothing_of_sigmoid_is_cdpo(oracle):
    """TRL 1.16 ignores it."""
    (case,) = [c for c in oracle["dpo"]["cases"] if c["name"].endswith("_IGNORED")]
    policy, rest = inputs(oracle)
    p, loss = PairLogps.of(*policy, **rest), resolved(case["config"])
    x = 0.1 * np.asarray(p.delta_B)
    close(loss.per_pair(p), 0.9 * np.log1p(np.exp(-x)) + 0.1 * np.log1p(np.exp(x)), 1e-12)
    assert abs(float(loss.mean(p)) - case["batch_mean_loss"]) > 1e-4


CPO_CASES = {
    "sigmoid": "cpo",
    "sigmoid_ls0.1": "cpo",
    "hinge": "cpo_hinge",
    "ipo": "cpo_ipo",
    "simpo_default_in_cpo(cpo_alpha=1)": "simpo",
    "simpo_pure(beta=2,gamma=1,cpo_alpha=0)": "simpo",
    "simpo_pure(beta=0.1,gamma=0.5,cpo_alpha=0)": "simpo",
    "simpo_ls0.1": "simpo",
    "alphapo(beta=2,gamma=1,alpha=0.25)": "alphapo",
}


def test_every_cpo_case_is_here(oracle):
    assert set(CPO_CASES) == set(oracle["cpo"]) - {"note"}


@pytest.mark.parametrize("name", CPO_CASES)
def test_cpo_family(oracle, name):
    case, spec = oracle["cpo"][name], CPO_CASES[name]
    c = case["config"]
    arguments = {"beta": c["beta"], "label_smoothing": c["label_smoothing"], "nll_weight": c["cpo_alpha"]}
    arguments |= {"gamma": c["simpo_gamma"]} if spec in ("simpo", "alphapo") else {}
    arguments |= {"alpha": c["alpha"]} if spec == "alphapo" else {}
    loss, bare = resolve(spec, **arguments), resolve(spec, **{**arguments, "nll_weight": 0.0})
    policy, _ = inputs(oracle)
    p = PairLogps.of(*policy)
    close(loss.per_pair(p), case["per_pair_loss"], 1e-10)
    close(loss.mean(p), case["total_loss"], 1e-10)
    # The oracle's gradients are those of the preference term, in what that reads: the sum or the mean over tokens.
    bare_value, gradients = value_and_gradients(bare, policy, {})
    close(bare_value, case["mean_preference_loss"], 1e-10)
    per_token = case["logps_used"] != "sum"
    for side, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        lengths = np.array([len(g) if per_token else 1 for g in gradient])
        close([g[0] for g in gradient] * lengths, case[f"grad_wrt_{side}_logp"], 1e-10)
    if spec != "cpo_hinge":
        metrics = loss.function.metrics(p, **loss.arguments)
        close(metrics["rewards/chosen"].value(), np.mean(case["chosen_rewards"]), 1e-10)
        close(metrics["rewards/rejected"].value(), np.mean(case["rejected_rewards"]), 1e-10)


@pytest.mark.parametrize("name", ["beta0.1", "beta0.25"])
def test_orpo(oracle, name):
    """TRL 1.16 computes it in float32."""
    case, (policy, _) = oracle["orpo"][name], inputs(oracle)
    loss, p = resolve("orpo", **case["config"]), PairLogps.of(*policy)
    close(loss.per_pair(p), -np.array(case["per_pair_beta_times_logsigmoid_logodds"]), 1e-5)
    close(loss.mean(p), case["total_loss"], 1e-5)
    _, gradients = value_and_gradients(resolve("orpo", **case["config"], nll_weight=0), policy, {})
    for side, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        close([g[0] * len(g) for g in gradient], case[f"grad_wrt_{side}_logp"], 1e-5)
    metrics = loss.function.metrics(p, **loss.arguments)
    close(metrics["rewards/margins"].value(), case["log_odds_chosen"], 1e-5)


def test_metrics_are_trls(oracle):
    policy, rest = inputs(oracle)
    wanted = oracle["dpo"]["metrics_for_dpo/sigmoid_beta0.1"]
    metrics = resolve("dpo").function.metrics(PairLogps.of(*policy, **rest), beta=0.1)
    assert set(metrics) == {name for name in wanted if name.startswith(("rewards/", "logps/"))}
    for name, metric in metrics.items():
        close(metric.value(), wanted[name], 1e-7 if "accuracies" in name else 1e-10)


def closed_forms(p):
    """Losses that TRL 1.16 lacks: per pair, in plain numpy."""
    u, v = np.asarray(p.chosen_ratio_B), np.asarray(p.rejected_ratio_B)
    n_c, n_l = np.asarray(p.chosen_length_B), np.asarray(p.rejected_length_B)
    return {
        "dpop": ({"beta": 0.3, "penalty": 5.0}, np.log1p(np.exp(-0.3 * (u - v - 5 * np.maximum(0, -u))))),
        "rdpo": ({"beta": 0.3, "alpha": 0.2}, np.log1p(np.exp(-0.3 * (u - v) - 0.2 * (n_c - n_l)))),
    }


@pytest.mark.parametrize("name", ["dpop", "rdpo"])
def test_closed_forms(oracle, name):
    policy, rest = inputs(oracle)
    p = PairLogps.of(*policy, **rest)
    arguments, wanted = closed_forms(p)[name]
    loss = resolve(name, **arguments)
    close(loss.per_pair(p), wanted, 1e-12)
    _, gradients = value_and_gradients(loss, policy, rest)
    moved = finite_differences(lambda x: float(loss.mean(PairLogps.of(*x, **rest))), policy)
    for gradient, slope in zip(gradients, moved, strict=True):
        close([g[0] for g in gradient], slope, 1e-7)
    metrics = loss.function.metrics(p, **loss.arguments)
    margins = np.asarray(metrics["rewards/margins"].value())
    close(margins, np.mean(-np.log(np.expm1(wanted))), 1e-10)  # the reward reported is the one optimised


def test_tdpo_closed_form():
    """The chosen answer's KL pulls on nothing; the rejected one's does."""
    rng = np.random.default_rng(0)
    mask = jnp.arange(4)[None, :] < jnp.array([4, 2, 3])[:, None]
    logps, ref, kl = jnp.asarray(rng.exponential(size=(3, 2, 3, 4)))
    chosen, rejected = (Tokens(-logps[i], mask, ref_logps_BT=-ref[i], kl_BT=kl[i]) for i in range(2))
    loss = resolve("tdpo", beta=0.3, alpha=0.7)
    p = pairs_of(chosen, rejected, jnp.ones(3), jnp.zeros(3))
    kl_c, kl_l = (np.where(mask, t.kl_BT, 0).sum(1) for t in (chosen, rejected))
    x = 0.3 * np.asarray(p.delta_B) - 0.7 * 0.3 * (kl_l - kl_c)
    close(loss.per_pair(p), np.log1p(np.exp(-x)), 1e-12)
    by_chosen, by_rejected = jax.grad(lambda t: loss.mean(pairs_of(*t, jnp.ones(3), jnp.zeros(3))), allow_int=True)(
        (chosen, rejected)
    )
    assert not np.asarray(by_chosen.kl_BT).any()
    close(by_rejected.kl_BT, np.where(mask, (0.21 / (1 + np.exp(x)) / 3)[:, None], 0), 1e-10)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_aot_leaves_absent_pairs_out(oracle, name):
    policy, rest = inputs(oracle)
    loss, some = resolve(name, beta=0.1), [0, 2, 3, 5]
    lists = *policy, rest["ref_chosen"], rest["ref_rejected"]
    few = PairLogps.of(*([rows[i] for i in some] for rows in lists))
    full = PairLogps.of(*policy, **rest, weight=[1.0, 0, 1, 1, 0, 1])
    close(loss.mean(full), loss.mean(few), 1e-12)
    assert loss.couples_batch


@pytest.mark.parametrize(
    "spec",
    [
        *("dpo", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
        *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm", "dpop", "rdpo"),
        *("cpo", "cpo_hinge", "cpo_ipo", "simpo", "alphapo", "orpo"),
    ],
)
def test_finite_at_extremes(spec):
    """In float32: certain answers, impossible ones, empty ones, log-ratios of a thousand."""
    chosen = [[-1e3, -0.0], [-0.0, -0.0], [-1e-9], [], [-5e2] * 3]
    rejected = [[-0.0], [-1e3], [-1e-9], [-1.0], [-1.0, -1e-30]]
    ref = [[0.0] * len(x) for x in chosen], [[-300.0] * len(x) for x in rejected]
    with jax.enable_x64(False):
        policy = tuple([jnp.asarray(x, jnp.float32) for x in rows] for rows in (chosen, rejected))
        variants = [{}]
        if resolve(spec).reference:
            variants += [{"f_divergence": f} for f in ("forward_kl", "js_divergence", "alpha_divergence")]
        for arguments in variants:
            loss = resolve(spec, **arguments)
            loss_value, gradients = value_and_gradients(loss, policy, {"ref_chosen": ref[0], "ref_rejected": ref[1]})
            assert np.isfinite(loss_value), arguments
            assert all(np.isfinite(g).all() for side in gradients for g in side), arguments
