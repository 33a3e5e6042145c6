"""One loss and one gradient, however the batch is cut."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxllm.losses import resolve
from jaxllm.losses.tokens import cross_entropy
from jaxllm.params import bind, materialize, select, split
from jaxllm.train.fit import compile_step
from jaxllm.train.mesh import make_mesh, put_batch, replicated, shardings
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, InputError, Mean, TrainState, value

RATE = 0.5
SGD = optax.sgd(RATE)  # Adam's first step would divide rounding errors by themselves


def start(params, optimizer=SGD):
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance), a, b)


def numbers(metrics):
    return {name: float(value(metric)) for name, metric in jax.device_get(metrics).items()}


@pytest.fixture(scope="module")
def plain(tagger, uneven):
    """(graphdef, params, new state, metrics) of one step on one device."""
    spec = tagger()
    params = jax.jit(spec.init)(jax.random.key(0))
    step = jax.jit(make_train_step(spec.graphdef, cross_entropy, SGD, seed=0))
    return spec, params, *step(start(params), uneven)


def test_the_plain_step_is_the_gradient_of_the_mean_over_weighted_tokens(plain, uneven):
    spec, params, after, metrics = plain
    weights = np.asarray(uneven.weights_BT, np.float64)
    assert (weights.sum(1)[:3] == 0).all()
    assert weights.sum(1).max() > 20

    @jax.jit
    def losses(params):
        model = bind(spec.graphdef, params)
        logits = model.head(model.hidden(uneven)[0])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), uneven.targets_BT[..., None], -1)[..., 0]

    per_token = np.asarray(losses(params), np.float64)
    expected = (per_token * weights).sum() / weights.sum()
    assert numbers(metrics)["loss"] == pytest.approx(expected, rel=1e-6)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(losses(p) * uneven.weights_BT) / weights.sum()))(params)
    close({n: x - RATE * grads[n] for n, x in params.items()}, after.params)
    norm = np.sqrt(sum(np.square(np.asarray(g, np.float64)).sum() for g in grads.values()))
    assert numbers(metrics)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert int(after.step) == 1
    # What these tests would take a mean of means for: another number, by far.
    means = (per_token * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)
    assert abs(means[means > 0].mean() - expected) > 1e-3


@pytest.mark.parametrize(
    ("mesh", "strategy", "microbatches"),
    [
        ("data=8", "jit", 1), ("data=2,fsdp=4", "jit", 2), ("fsdp=4,tensor=2", "jit", 1), ("data=8", "pmap", 1),
        ("data=8", "pmap", 2), ("", "jit", 2), ("", "jit", 4),
    ],
)  # fmt: skip
def test_sharded_pmapped_and_microbatched_steps_are_the_plain_one(plain, uneven, mesh, strategy, microbatches):
    spec, params, expected, metrics = plain
    on = make_mesh(mesh, jax.devices() if mesh else jax.devices()[:1])
    axis = "data" if strategy == "pmap" else None
    step = make_train_step(spec.graphdef, cross_entropy, SGD, seed=0, microbatches=microbatches, axis=axis)
    at = shardings(spec.graphdef.abstract, on, spec.rules)
    placed = {n: jax.device_put(np.asarray(x), at[n]) for n, x in params.items()}
    state = TrainState(jax.device_put(np.int32(0), replicated(on)), placed, SGD.init(placed))
    train = compile_step(step, strategy, on, at, shardings(SGD.init(placed), on, spec.rules))
    if strategy == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), uneven)
    else:
        batch = put_batch(uneven, on, 16)
    after, found = train(state, batch)
    close(numbers(found), numbers(metrics))
    close(dict(after.params), dict(expected.params))
    assert all(x.is_deleted() for x in placed.values()), "the old state's memory is given to the new one"
    if strategy == "jit":
        assert all(after.params[n].sharding == at[n] for n in at)


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
def test_a_step_that_is_not_finite_keeps_the_whole_old_state_and_says_so(toy, where):
    graphdef, params = toy

    def breaks(model, batch, key=None):
        total = two_terms(model, batch)["rows"].total
        # sqrt at 0: a finite value with an infinite gradient
        total = total + (jnp.nan if where == "loss" else 0.0 * total + jnp.sqrt(0.0 * total))
        return {"loss": Mean(total, jnp.float32(1.0))}

    optimizer = optax.adam(0.1)
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
    close(after.params["kernel"], params["kernel"], 1e-7)


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


def test_counting_first_costs_no_forward_pass(tagger, uneven):
    spec = tagger()
    params = spec.graphdef.abstract
    state = jax.eval_shape(start, params)

    def bare(state, batch):
        def objective(params):
            return cross_entropy(bind(spec.graphdef, params), batch)["loss"].value()

        loss, grads = jax.value_and_grad(objective)(state.params)
        updates, opt_state = SGD.update(grads, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), loss

    def dots(step):
        text = jax.jit(step).lower(state, uneven).compile().as_text()
        return len(re.findall(r"= \S+ dot\(|custom_call_target=\"[^\"]*matmul", text))

    step = make_train_step(spec.graphdef, resolve("cross_entropy"), SGD, seed=0)
    assert dots(step) == dots(bare) > 3 * 6


def test_dropout_depends_on_seed_and_step_alone(tagger, uneven):
    spec = tagger(dropout=0.3)
    params = jax.jit(spec.init)(jax.random.key(0))
    freeze_all = optax.set_to_zero()
    step = jax.jit(make_train_step(spec.graphdef, cross_entropy, freeze_all, seed=3))
    first, again = (step(start(params, freeze_all), uneven) for _ in range(2))
    assert numbers(first[1]) == numbers(again[1])
    second = step(first[0], uneven)  # the same parameters: only the masks differ
    assert abs(numbers(second[1])["loss"] - numbers(first[1])["loss"]) > 1e-4
    assert abs(numbers(second[1])["grad_norm"] - numbers(first[1])["grad_norm"]) > 1e-4


def test_rows_of_different_microbatches_and_devices_drop_different_units(tagger, uneven):
    spec = tagger(dropout=0.5)
    params = jax.jit(spec.init)(jax.random.key(0))

    def per_row(model, batch, key=None):
        hidden_BTD, _ = model.hidden(batch, key)
        sums = jnp.sum(jnp.abs(hidden_BTD), (1, 2))
        one = jnp.float32(batch.tokens_BT.shape[0])
        return {"loss": Mean(jnp.sum(sums), one), "square": Mean(jnp.sum(jnp.square(sums)), one)}

    same = jax.tree.map(lambda x: np.repeat(x[5:6], 8, 0), uneven)
    still = optax.set_to_zero()
    cut = jax.jit(make_train_step(spec.graphdef, per_row, still, seed=3, microbatches=8))
    _, metrics = cut(start(params, still), same)
    spread = numbers(metrics)["square"] - numbers(metrics)["loss"] ** 2
    assert spread > 1.0, "eight copies of a row, one per microbatch, were masked alike"
    mapped = jax.pmap(
        make_train_step(spec.graphdef, per_row, still, seed=3, axis="data"),
        axis_name="data", in_axes=(None, 0, None), out_axes=None,
    )  # fmt: skip
    _, metrics = mapped(start(params, still), jax.tree.map(lambda x: x[:, None], same), None)
    assert numbers(metrics)["square"] - numbers(metrics)["loss"] ** 2 > 1.0


def test_what_is_frozen_gets_no_gradient_and_does_not_count_in_the_norm(plain, uneven):
    spec, params, after, _ = plain
    grads = {n: (np.asarray(params[n]) - np.asarray(after.params[n])) / RATE for n in params}
    freeze = select(params, ("embeddings.*", "blocks[:1].*"))
    step = jax.jit(make_train_step(spec.graphdef, cross_entropy, SGD, seed=0, freeze=freeze))
    new, metrics = step(start(params), uneven)
    left = {n: np.where(n.startswith("embeddings."), 0, g) for n, g in grads.items()}
    left = {n: np.concatenate([0 * g[:1], g[1:]]) if n.startswith("blocks.") else g for n, g in left.items()}
    assert numbers(metrics)["grad_norm"] == pytest.approx(np.sqrt(sum((g**2).sum() for g in left.values())), rel=1e-4)
    close({n: params[n] - RATE * left[n] for n in params}, dict(new.params))

    # As an argument of the step, frozen parameters are in no state at all.
    apart = {n: x for n, x in params.items() if n.startswith("embeddings.")}
    rest = {n: x for n, x in params.items() if n not in apart}
    new, metrics = jax.jit(make_train_step(spec.graphdef, cross_entropy, SGD, seed=0))(start(rest), uneven, apart)
    assert new.params.keys() == rest.keys()
    norm = np.sqrt(sum((g**2).sum() for n, g in grads.items() if n in rest))
    assert numbers(metrics)["grad_norm"] == pytest.approx(norm, rel=1e-4)
    close(dict(new.params), {n: after.params[n] for n in rest})


def test_microbatches_must_divide_the_rows(toy):
    graphdef, params = toy
    with pytest.raises(ValueError, match="8 rows do not divide into 3"):
        jax.eval_shape(make_train_step(graphdef, two_terms, SGD, seed=0, microbatches=3), start(params), toy_batch())


def test_frozen_whole_has_no_moments_and_decay_does_not_move_it(tagger):
    spec = tagger()
    params = materialize(spec, shardings(spec.graphdef.abstract, make_mesh("data=8"), spec.rules), 0)
    config = OptimConfig(freeze=("!classifier.*",), weight_decay=0.5)
    state = make_optimizer(config, spec.graphdef.abstract, optax.constant_schedule(0.1)).init(params)
    moments = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert moments == 2 * (16 * 5 + 5)
