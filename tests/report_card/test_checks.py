"""The report card: every loss of the library passes it, and losses that are wrong in known ways do not."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.losses import names
from jaxllm.losses.policy_objective import policy_loss
from jaxllm.losses.preference import preference_loss
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.report_card.checks import check_loss
from jaxllm.types import InputError, Mean

pytestmark = pytest.mark.slow

QUICK = ("dft", "sigmoid", "kto", "bradley_terry", "grpo")


def failed(loss, **arguments):
    return {line.check for line in check_loss(loss, timed=False, **arguments) if not line.passed}


@pytest.mark.parametrize("name", QUICK)
def test_losses_of_each_kind_pass(name):
    card = check_loss(name, timed=False)
    assert not [line for line in card if not line.passed]
    assert len(card) == (16 if name == "grpo" else 12), "with eight devices"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name not in QUICK])
def test_every_loss_of_the_library_passes(name):
    assert not failed(name)


@pytest.mark.slow
def test_mixtures_and_arguments_pass():
    assert not failed("sigmoid:0.8+bco_pair:0.2+sft:1.0")
    assert not failed("ipo", use_weighting=True, f_divergence="js_divergence", ld_alpha=0.5)
    assert not failed("grpo:0.7+rloo:0.3", **{"grpo.beta": 0.1})
    assert not failed("dapo", entropy_coef=0.1, vllm_importance_sampling_mode="sequence_truncate", beta=0.1)
    assert not failed("bnpo", top_entropy_quantile=0.4, entropy_coef=0.1, importance_sampling_level="sequence")


def mean_of_all(model, batch, key=None):
    """Learns from every token, whatever its weight."""
    logps_BT, _ = over_tokens(model, batch, token_logprobs)
    return {"loss": Mean(-jnp.sum(logps_BT), jnp.float32(logps_BT.size))}


def mean_of_means(model, batch, key=None):
    """Of each row its mean, and of these the mean."""
    logps_BT, _ = over_tokens(model, batch, token_logprobs)
    weights_B = jnp.sum(batch.weights_BT, axis=1)
    rows_B = -jnp.sum(logps_BT * batch.weights_BT, axis=1) / jnp.maximum(weights_B, 1)
    return {"loss": Mean(jnp.sum(rows_B), jnp.sum(weights_B > 0).astype(jnp.float32))}


def naive(model, batch, key=None):
    """All logits at once."""
    hidden_BTD, _ = model.hidden(batch, key)
    logits_BTV = model.head(hidden_BTD)
    logps_BTV = jax.nn.log_softmax(logits_BTV)
    loss_BT = -jnp.take_along_axis(logps_BTV, batch.targets_BT[..., None], axis=-1)[..., 0]
    return {"loss": Mean(jnp.sum(loss_BT * batch.weights_BT), jnp.sum(batch.weights_BT))}


@preference_loss
def overflowing(p, *, beta=0.1):
    return jnp.log1p(jnp.exp(-beta * p.delta_B))


@preference_loss
def wrong_gradient(p, *, beta=0.1):
    @jax.custom_jvp
    def twice(x):
        return 2 * x

    twice.defjvp(lambda x, dx: (2 * x[0], dx[0]))
    return -jax.nn.log_sigmoid(twice(beta * p.delta_B))


@preference_loss
def against_the_mean(p, *, beta=0.1):
    """Couples the batch and does not say so."""
    return -jax.nn.log_sigmoid(beta * (p.delta_B - jnp.sum(p.delta_B * p.weight_B) / jnp.sum(p.weight_B)))


@policy_loss
def unbounded(p):
    """A ratio of its own, which overflows."""
    return -jnp.exp(p.policy_BT - p.old_BT) * p.advantages_BT


@policy_loss
def always_up(p):
    """The samples grow more likely, whatever their advantage."""
    return -p.policy_BT


@policy_loss
def capped_low(p):
    """A cap of CISPO that binds on policy too."""
    return -jax.lax.stop_gradient(jnp.minimum(p.ratio_BT, 0.2)) * p.advantages_BT * p.policy_BT


def reads_masked(model, rollouts, key=None):
    """Whatever the weights say."""
    logps_BT, _ = over_tokens(model, rollouts.batch, token_logprobs)
    total = jnp.sum(logps_BT * rollouts.advantages_BT)
    return {"loss": Mean(-total, jnp.sum(rollouts.batch.weights_BT))}


@preference_loss
def stopped_inside(p, *, beta=0.1):
    """Stops a gradient in a function that has its own rule of differentiation."""

    @jax.custom_jvp
    def same(x):
        return x * jax.lax.stop_gradient(jnp.ones_like(x))

    same.defjvp(lambda x, dx: (same(x[0]), dx[0]))
    return -jax.nn.log_sigmoid(same(beta * p.delta_B))


def test_a_gradient_may_be_stopped_anywhere():
    assert not failed(stopped_inside)


@pytest.mark.parametrize(
    ("loss", "caught"),
    [
        (unbounded, {"ratios of exp(1000) and exp(-1000)"}),
        (always_up, {"advantages of 0", "the policy itself has sampled"}),
        (capped_low, {"the policy itself has sampled"}),
        (reads_masked, {"values of tokens of weight 0 are NaN"}),
        (mean_of_all, {"targets of weight 0 change", "more padding"}),
        (mean_of_means, {"packed rows"}),
        (naive, {"temporary memory"}),
        (overflowing, {"logits in the thousands"}),
        (wrong_gradient, {"gradient against finite differences"}),
        (against_the_mean, {"four microbatches"}),
    ],
    ids=lambda x: getattr(x, "__name__", None) or getattr(x, "name", None),
)
def test_what_is_wrong_is_caught(loss, caught):
    assert caught <= failed(loss)


def test_a_wrong_shape_is_the_only_thing_that_is_said():
    with pytest.raises(InputError, match=r"test_checks.py:<lambda> returned \[32, 1\]; one number per pair, \[32\]"):
        check_loss(preference_loss(lambda p: -p.delta_B[:, None]))


def test_what_runs_on_nothing_is_refused():
    with pytest.raises(InputError, match=r"runs neither on a Batch: AttributeError.*nor on Answers.*nor on Rollouts"):
        check_loss(lambda model, batch, key=None: batch.nothing)
