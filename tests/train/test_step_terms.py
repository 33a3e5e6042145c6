"""What a loss may ask of the step: terms counted differently, metrics of the model, and what it must not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxllm.losses.tokens import cross_entropy
from jaxllm.params import split
from jaxllm.train.optimizers import adam
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, InputError, Mean, TrainState, value

SGD = optax.sgd(0.5)


def start(params, optimizer=SGD):
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def numbers(metrics):
    return {name: float(value(metric)) for name, metric in jax.device_get(metrics).items()}


class Toy(nnx.Module):
    """tanh of an embedding, a linear head, and a metric of its own."""

    def __init__(self, rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (8, 4)))
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 3)))

    def hidden(self, batch, key=None):
        hidden_BTD = jnp.tanh(self.embedding[...][batch.tokens_BT])
        real = (batch.segments_BT > 0).astype(jnp.float32)
        size = Mean(jnp.sum(jnp.square(hidden_BTD) * real[..., None]), jnp.sum(real))
        return hidden_BTD, {"size": ((0.3, size),)}

    def head(self, hidden_ND):
        return hidden_ND @ self.kernel[...]


def toy_batch(rows=8, length=5):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 8, (rows, length)).astype(np.int32)
    weights = (rng.random((rows, length)) * (rng.random((rows, 1)) ** 2)).astype(np.float32)
    segments = (rng.random((rows, length)) < 0.8).astype(np.int32)
    return Batch(tokens, tokens % 3, weights, segments, np.zeros_like(tokens))


def two_terms(model, batch, key=None):
    """Counted differently: tokens by weight, and rows."""
    hidden_BTD, _ = model.hidden(batch, key)  # drops the model's own metric
    logits = model.head(hidden_BTD)
    ce = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets_BT[..., None], -1)[..., 0]
    tokens = Mean(jnp.sum(ce * batch.weights_BT), jnp.sum(batch.weights_BT))
    learning = jnp.any(batch.weights_BT > 0.2, axis=1).astype(jnp.float32)
    rows = Mean(jnp.sum(jnp.square(logits).sum((1, 2)) * learning), jnp.sum(learning))
    return {"loss": ((0.7, tokens), (0.1, rows)), "rows": rows}


def toy_objective(params, batch):
    """two_terms and the model's metric, in float64 numpy."""
    hidden = np.tanh(params["embedding"][batch.tokens_BT])
    logits = hidden @ params["kernel"]
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    ce = -np.take_along_axis(logp, batch.targets_BT[..., None], -1)[..., 0]
    w, real = batch.weights_BT.astype(np.float64), batch.segments_BT > 0
    learning = (batch.weights_BT > 0.2).any(1)
    rows = np.square(logits).sum((1, 2))[learning].mean()
    size = np.square(hidden).sum(-1)[real].mean()
    return 0.7 * (ce * w).sum() / w.sum() + 0.1 * rows + 0.3 * size, {"rows": rows, "size": 0.3 * size}


@pytest.fixture(scope="module")
def toy():
    return split(Toy(nnx.Rngs(0)))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_terms_counted_differently_and_the_models_own_metric_add_up(toy, microbatches):
    graphdef, params = toy
    batch = toy_batch()
    with jax.enable_x64(True):
        wide = {n: np.asarray(x, np.float64) for n, x in params.items()}
        step = jax.jit(make_train_step(graphdef, two_terms, optax.sgd(1.0), seed=0, microbatches=microbatches))
        after, metrics = step(start({n: jnp.asarray(x) for n, x in wide.items()}, optax.sgd(1.0)), batch)
        grads = {n: wide[n] - np.asarray(after.params[n]) for n in wide}
        metrics = numbers(metrics)
    expected, parts = toy_objective(wide, batch)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert {name: metrics[name] for name in parts} == pytest.approx(parts, rel=1e-6)
    for name, x in wide.items():
        for at in np.ndindex(x.shape):
            nudge = np.zeros_like(x)
            nudge[at] = 1e-5
            up, down = (toy_objective({**wide, name: x + sign * nudge}, batch)[0] for sign in (1, -1))
            assert grads[name][at] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


def test_the_models_metric_counts_for_every_call_of_it(toy):
    graphdef, params = toy
    batch = toy_batch()

    def twice(model, batch, key=None):
        model.hidden(dataclasses.replace(batch, tokens_BT=7 - batch.tokens_BT), key)
        return two_terms(model, batch, key)

    _, metrics = jax.jit(make_train_step(graphdef, twice, SGD, seed=0))(start(params), batch)
    both = [toy_objective({n: np.asarray(x, np.float64) for n, x in params.items()}, b)[1]["size"]
            for b in (batch, dataclasses.replace(batch, tokens_BT=7 - batch.tokens_BT))]  # fmt: skip
    assert numbers(metrics)["size"] == pytest.approx(np.mean(both), rel=1e-5)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.chain(adam(0.9, 0.99, 1e-8), optax.scale(-0.1))])
def test_a_step_that_is_not_finite_keeps_the_whole_old_state_and_says_so(toy, where, optimizer):
    graphdef, params = toy

    def breaks(model, batch, key=None):
        total = two_terms(model, batch)["rows"].total
        # sqrt at 0: a finite value with an infinite gradient
        total = total + (jnp.nan if where == "loss" else 0.0 * total + jnp.sqrt(0.0 * total))
        return {"loss": Mean(total, jnp.float32(1.0))}

    for loss, skipped in ((breaks, 1.0), (two_terms, 0.0)):
        before = start(params, optimizer)
        after, metrics = jax.jit(make_train_step(graphdef, loss, optimizer, seed=0))(before, toy_batch())
        assert numbers(metrics)["skipped"] == skipped
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), before, after)
        assert all(jax.tree.leaves(same)) == bool(skipped)
        assert int(after.step) == 1 - skipped


def test_a_batch_that_teaches_nothing_gives_zero(toy):
    graphdef, params = toy
    empty = dataclasses.replace(toy_batch(), weights_BT=np.zeros((8, 5), np.float32))
    after, metrics = jax.jit(make_train_step(graphdef, cross_entropy, SGD, seed=0))(start(params), empty)
    # The model's own metric still counts; the loss's term is 0, not 0 / 0.
    assert numbers(metrics)["loss"] == pytest.approx(numbers(metrics)["size"])
    assert numbers(metrics)["skipped"] == 0
    np.testing.assert_allclose(after.params["kernel"], params["kernel"], atol=1e-7)


def test_a_loss_that_couples_the_batch_is_not_cut(toy):
    graphdef, params = toy

    def coupled(model, batch, key=None):
        return two_terms(model, batch, key)

    coupled.couples_batch = True
    with pytest.raises(InputError, match=r"coupled.*microbatches"):
        make_train_step(graphdef, coupled, SGD, seed=0, microbatches=2)
    with pytest.raises(InputError, match=r"coupled.*pmap"):
        make_train_step(graphdef, coupled, SGD, seed=0, axis="data")
    _, metrics = jax.jit(make_train_step(graphdef, coupled, SGD, seed=0))(start(params), toy_batch())
    assert np.isfinite(numbers(metrics)["loss"])


def test_microbatches_must_divide_the_rows(toy):
    graphdef, params = toy
    with pytest.raises(ValueError, match="8 rows do not divide into 3"):
        jax.eval_shape(make_train_step(graphdef, two_terms, SGD, seed=0, microbatches=3), start(params), toy_batch())
