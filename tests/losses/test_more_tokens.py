"""dft, focal, unlikelihood and jsd: against TRL 1.16 (SFTTrainer, GKD's JSD), or their equations in plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.losses import resolve
from jaxllm.models.teacher import join_rules
from jaxllm.params import split
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, InputError, TrainState, value

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Given:
    """A model whose logits are given; so may be its teacher's."""

    logits_BTV: jax.Array
    teacher: "Given | None" = None

    def hidden(self, batch, key=None):
        return self.logits_BTV, {}

    def head(self, hidden_ND):
        return hidden_ND


def batch_of(targets, weights):
    targets = jnp.asarray(targets)
    tokens, ones = jnp.zeros_like(targets), jnp.ones_like(targets)
    return Batch(tokens, targets, jnp.asarray(weights), ones, jnp.arange(targets.shape[1])[None, :] * ones)


@pytest.mark.parametrize(("name", "spec"), [("nll", "cross_entropy"), ("dft", "dft")])
def test_sft_oracle(oracle, x64, name, spec):
    """Two classes, the target's logit its log-probability: normalised already, so d log p / d logit = 1 - p."""
    rows, case = oracle["inputs"]["policy_chosen_token_logps"], oracle["sft"][name]
    logp = np.zeros((6, 8)) - 1
    for i, row in enumerate(rows):
        logp[i, : len(row)] = row
    weights = np.array([[t < len(row) for t in range(8)] for row in rows], np.float64)
    batch = batch_of(np.zeros((6, 8), np.int32), weights)

    def loss(x):
        logits = jnp.stack([x, jnp.log(-jnp.expm1(logp))], axis=-1)
        return resolve(spec)(Given(logits), batch)["loss"].value()

    loss_value, gradient = jax.value_and_grad(loss)(jnp.asarray(logp))
    np.testing.assert_allclose(loss_value, case["loss"], rtol=1e-10)
    first = np.asarray(gradient)[:, 0] / (1 - np.exp(logp[:, 0]))
    np.testing.assert_allclose(first, case["grad_wrt_first_token_logp"], rtol=1e-10)


def test_focal(x64):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 5, 7)) * 3, rng.integers(0, 7, (2, 5), dtype=np.int32)
    weights = rng.integers(0, 3, (2, 5)).astype(np.float64)
    p = np.take_along_axis(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), targets[..., None], -1)[..., 0]
    model, batch = Given(jnp.asarray(logits)), batch_of(targets, weights)
    for gamma in (2.0, 0.5, 0.0):
        wanted = np.average(-((1 - p) ** gamma) * np.log(p), weights=weights)
        np.testing.assert_allclose(resolve("focal", gamma=gamma)(model, batch)["loss"].value(), wanted, rtol=1e-10)
    np.testing.assert_allclose(
        resolve("focal", gamma=0.0)(model, batch)["loss"].value(),
        resolve("cross_entropy")(model, batch)["loss"].value(),
    )


@pytest.mark.parametrize("spec", ["dft", "focal", "unlikelihood", "jsd"])
def test_finite_at_certainty(spec):
    """A token that the model is sure of, for and against: no loss or gradient is infinite."""
    logits = jnp.array([[[200.0, 0.0], [0.0, 200.0], [200.0, 0.0]]])
    batch = batch_of([[0, 0, 1]], np.ones((1, 3), np.float32))
    arguments = {"gamma": 0.5} if spec == "focal" else {}

    def loss(x):
        return resolve(spec, **arguments)(Given(x, Given(x[:, ::-1])), batch)["loss"].value()

    loss_value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(loss_value)
    assert np.isfinite(gradient).all()


def test_unlikelihood(packed, toy, small_chunks):
    """Candidates of a target: the tokens before it in its document, each once, without itself."""
    batch = packed.answers.batch
    loss = resolve("unlikelihood", alpha=0.7)
    logp = packed.logps(toy)
    tokens, targets, segments = (np.asarray(x) for x in (batch.tokens_BT, batch.targets_BT, batch.segments_BT))
    total, candidates = 0.0, 0
    for b, t in zip(*np.nonzero(np.asarray(batch.weights_BT)), strict=True):
        before = {int(tokens[b, s]) for s in range(t + 1) if segments[b, s] == segments[b, t]} - {int(targets[b, t])}
        candidates += len(before)
        total += -logp[b, t, targets[b, t]] - 0.7 * sum(np.log1p(-np.exp(logp[b, t, c])) for c in before)
    metric = jax.jit(loss)(toy, batch)["loss"]
    assert candidates > 50
    np.testing.assert_allclose(metric.total, total, rtol=1e-5)
    assert metric.count == np.sum(batch.weights_BT)
    np.testing.assert_allclose(
        value(resolve("unlikelihood", alpha=0.0)(toy, batch)["loss"]),
        value(resolve("cross_entropy")(toy, batch)["loss"]),
    )


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
def test_jsd_oracle(oracle, x64, beta):
    case = oracle["gkd_generalized_jsd"]
    labels = np.array(case["labels"])
    student, teacher = jnp.asarray(case["student_logits"]), jnp.asarray(case["teacher_logits"])
    batch = batch_of(np.maximum(labels, 0), (labels >= 0).astype(np.float64))
    for temperature in (1.0, 2.0):
        loss = resolve("jsd", beta=beta, temperature=temperature)
        metric = loss(Given(student, Given(teacher)), batch)["loss"]
        np.testing.assert_allclose(metric.value(), case["values"][f"beta{beta}_T{temperature}"], rtol=1e-10)


def test_jsd_is_finite_where_both_rule_a_token_out():
    """As a padded vocabulary does."""
    logits = jnp.array([[[1.0, 2.0, -jnp.inf]]])
    model, batch = (
        Given(logits, Given(logits + jnp.array([[[0.5, 0.0, 0.0]]]))),
        batch_of([[0]], np.ones((1, 1), np.float32)),
    )
    without = Given(logits[..., :2], Given(logits[..., :2] + jnp.array([[[0.5, 0.0]]])))
    for beta in (0.0, 0.5, 1.0):
        loss = resolve("jsd", beta=beta)
        np.testing.assert_allclose(loss(model, batch)["loss"].value(), loss(without, batch)["loss"].value(), rtol=1e-6)
        gradient = jax.grad(lambda x, loss=loss: loss(Given(x, model.teacher), batch)["loss"].value())(logits)
        assert np.isfinite(gradient).all()


def test_distillation_trains_the_student_alone(packed, taught, small_chunks):
    """The teacher's parameters come as `frozen`; the student's keep their names."""
    graphdef, params = split(taught)
    assert set(params) == {"embed", "out", "teacher.embed", "teacher.out"}
    frozen = {name: x for name, x in params.items() if name.startswith("teacher.")}
    params = {name: x for name, x in params.items() if name not in frozen}
    optimizer = optax.adam(0.05)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    step = jax.jit(make_train_step(graphdef, resolve("jsd", beta=0.3), optimizer, seed=0, microbatches=2))
    losses = []
    for _ in range(30):
        state, metrics = step(state, packed.answers.batch, frozen)
        losses.append(float(value(metrics["loss"])))
    assert set(state.params) == {"embed", "out"}
    assert losses[-1] < 0.3 * losses[0]


def test_refuses(packed, toy):
    with pytest.raises(InputError, match="the model has no teacher: give it one with `Taught`"):
        resolve("jsd")(toy, packed.answers.batch)
    for spec, arguments, message in [
        ("jsd", {"beta": 1.5}, "beta=1.5 must be from 0 to 1"),
        ("jsd", {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ("focal", {"gamma": -1.0}, "gamma=-1.0 must be 0 or above"),
        ("unlikelihood", {"alpha": "x"}, "alpha='x' is not a float"),
        ("unlikelihood", {"alpha": -1}, "alpha=-1 must be 0 or above"),
        ("cross_entropy", {"label_smoothing": 2.0}, "label_smoothing=2.0 must be from 0 to 1"),
    ]:
        with pytest.raises(InputError, match=message.replace(".", r"\.")):
            resolve(spec, **arguments)


def test_rules_of_a_teacher():
    spec = jax.sharding.PartitionSpec("fsdp")
    rules = join_rules(((r"embed", spec),), ((r"a|b", spec),))
    assert rules == ((r"embed", spec), (r"teacher\.(?:a|b)", spec))
