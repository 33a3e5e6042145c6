"""Weighted sums of losses: one pass, each term logged; and microbatches change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.losses import resolve
from jaxllm.params import split
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, TrainState, value

MPO = "sigmoid:0.8+bco_pair:0.2+sft:1.0"


class Counting:
    """Counts the passes through a model."""

    def __init__(self, model):
        self.model, self.passes = model, 0

    def hidden(self, batch, key=None):
        self.passes += 1
        return self.model.hidden(batch, key)

    def head(self, hidden_ND):
        return self.model.head(hidden_ND)


def test_one_pass_and_every_term(packed, toy, taught):
    answers, weights = packed.with_reference(taught.teacher).answers, []

    @jax.jit
    def both(toy, answers):
        model = Counting(toy)
        metrics = resolve(MPO, **{"sigmoid.beta": "0.3"})(model, answers)
        assert model.passes == 1
        weights.extend(weight for weight, _ in metrics["loss"])
        return metrics, {
            "sigmoid": resolve("sigmoid", beta=0.3)(toy, answers),
            "bco_pair": resolve("bco_pair")(toy, answers),
            "sft": resolve("sft")(toy, answers),
        }

    metrics, alone = jax.device_get(both(toy, answers))
    for name, other in alone.items():
        np.testing.assert_allclose(value(metrics[f"loss/{name}"]), value(other["loss"]), rtol=1e-6)
    total = sum(w * value(alone[name]["loss"]) for name, w in (("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0)))
    np.testing.assert_allclose(value(metrics["loss"]), total, rtol=1e-6)
    assert weights == [0.8, 0.2, 1.0]
    assert [mean.count for _, mean in metrics["loss"]] == [6.0, 6.0, metrics["loss/sft"].count]
    margins = 0.3 * packed.ragged(toy, taught.teacher).delta_B
    np.testing.assert_allclose(metrics["rewards/margins"].value(), margins.mean(), rtol=1e-4, atol=1e-6)


def test_arguments_go_where_they_belong():
    mixture = resolve("dpo:2+sft+hinge:0.5", beta=0.3, **{"hinge.beta": 0.7, "dpo.ld_alpha": 0.5})
    assert [(weight, loss.name, dict(x)) for weight, loss, x in mixture.parts] == [
        (2.0, "dpo", {"beta": 0.3, "ld_alpha": 0.5}),
        (1.0, "sft", {"beta": 0.3}),
        (0.5, "hinge", {"beta": 0.7}),
    ]
    assert mixture.reference
    assert not mixture.couples_batch
    assert resolve("sft+aot:0.1").couples_batch
    assert not resolve("sft+simpo").reference
    assert resolve("sft+tdpo").needs == ("kl",)
    assert [weight for weight, *_ in resolve("dpo:0.5").parts] == [0.5]


def test_of_ones_own(packed, toy, tmp_path):
    source = tmp_path / "my_losses.py"
    source.write_text(
        "import jax\n"
        "from jaxllm.losses.preference import PairLogps, preference_loss\n"
        "@preference_loss(reference=False)\n"
        "def margin(p: PairLogps, *, beta=0.1, shift: float = 0.0):\n"
        "    return -jax.nn.log_sigmoid(beta * (p.chosen_B - p.rejected_B) - shift)\n"
    )
    own = f"{source}:margin"
    p = packed.ragged(toy)
    wanted = resolve("cpo", beta=0.2, nll_weight=0).mean(p)
    np.testing.assert_allclose(resolve(own, beta="0.2").mean(p), wanted, rtol=1e-6)
    mixture = resolve(f"{own}:0.5+sft", **{f"{own}.beta": 0.2})
    metrics = mixture(toy, packed.answers)
    np.testing.assert_allclose(value(metrics["loss"]), 0.5 * wanted + resolve("sft").mean(p), rtol=1e-5)
    assert "loss/margin" in metrics
    with pytest.raises(InputError, match="has no argument 'shfit'; did you mean 'shift'"):
        resolve(own, shfit=1)


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("sigmoid:0.8+sgt", {}, "no loss is called 'sgt'; did you mean 'sft'?"),
        ("sigmoid:-1+sft", {}, "--loss sigmoid:-1: the weight must be above 0"),
        ("sigmoid+sft+sigmoid", {}, "sigmoid is there twice"),
        ("sigmoid+cross_entropy", {}, "cross_entropy does not mix; a mixture is of losses of pairs"),
        ("sigmoid+kto", {}, "kto does not mix"),
        ("sigmoid+bradley_terry", {}, "a loss of rewards and one of log-probabilities do not mix"),
        ("sigmoid+sft", {"hinge.beta": 1}, "has no part 'hinge'"),
        ("sigmoid+sft", {"sigmoid.bta": 1}, "loss 'sigmoid' has no argument 'bta'; did you mean 'beta'?"),
        ("sigmoid+sft", {"gama": 1}, "has an argument 'gama'"),
        ("sigmoid+sft", {"sigmoid.beta": 0}, "beta=0 must be above 0"),
    ],
)
def test_refuses(spec, arguments, message):
    with pytest.raises(InputError) as error:
        resolve(spec, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["sft", "orpo", MPO])
def test_microbatches_change_nothing(packed, taught, spec):
    """Rows of 3, 1, 2 and no pairs, so that every cut counts pairs and tokens unevenly."""
    answers = packed.with_reference(taught.teacher).answers
    graphdef, params = split(taught.body)
    optimizer = optax.sgd(1.0)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    done = [
        jax.jit(make_train_step(graphdef, resolve(spec), optimizer, seed=0, microbatches=n))(state, answers)
        for n in (1, 2, 4)
    ]
    for after, metrics in done:
        np.testing.assert_allclose(value(metrics["loss"]), resolve_mean(spec, packed, taught), rtol=2e-5)
        for name, x in after.params.items():
            np.testing.assert_allclose(x, done[0][0].params[name], rtol=1e-5, atol=1e-6)
            assert np.abs(x - params[name]).max() > 1e-3


def resolve_mean(spec, packed, taught):
    return resolve(spec).mean(packed.ragged(taught.body, taught.teacher))
