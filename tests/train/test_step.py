"""One loss and one gradient, however the batch is cut."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn

from jaxllm.distributed.mesh import make_mesh, put_batch, replicated, shardings
from jaxllm.losses import resolve
from jaxllm.losses.tokens import cross_entropy
from jaxllm.params import bind, select
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.train.setup import compile_step
from jaxllm.train.step import make_train_step
from jaxllm.types import Mean, TrainState, value

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
    params = drawn(spec)
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
    assert float(found["loss"].count) == pytest.approx(float(uneven.weights_BT.sum())), "of the whole batch"
    close(dict(after.params), dict(expected.params))
    assert all(x.is_deleted() for x in placed.values()), "the old state's memory is given to the new one"
    if strategy == "jit":
        assert all(after.params[n].sharding == at[n] for n in at)


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
    params = drawn(spec)
    freeze_all = optax.set_to_zero()
    step = jax.jit(make_train_step(spec.graphdef, cross_entropy, freeze_all, seed=3))
    first, again = (step(start(params, freeze_all), uneven) for _ in range(2))
    assert numbers(first[1]) == numbers(again[1])
    second = step(first[0], uneven)  # the same parameters: only the masks differ
    assert abs(numbers(second[1])["loss"] - numbers(first[1])["loss"]) > 1e-4
    assert abs(numbers(second[1])["grad_norm"] - numbers(first[1])["grad_norm"]) > 1e-4


def test_rows_of_different_microbatches_and_devices_drop_different_units(tagger, uneven):
    spec = tagger(dropout=0.5)
    params = drawn(spec)

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


def test_frozen_whole_has_no_moments_and_decay_does_not_move_it(tagger):
    spec = tagger()
    params = drawn(spec)
    config = OptimConfig(freeze=("!classifier.*",), weight_decay=0.5)
    state = make_optimizer(config, spec.graphdef.abstract, optax.constant_schedule(0.1)).init(params)
    moments = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert moments == 2 * (16 * 5 + 5)
