"""Cross entropy against numpy, and the chunked head against the plain one."""

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses import tokens
from jaxllm.losses.chunks import to_front
from jaxllm.losses.tokens import cross_entropy, over_tokens, token_logprobs, token_loss
from jaxllm.models.layers import matmul
from jaxllm.params import bind, split
from jaxllm.planning import Planning, planned
from jaxllm.types import Batch, Mean, value

B, T, D, V = 8, 13, 4, 11
RNG = np.random.default_rng(0)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (V, D)))
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (D, V)))
        self.bias = nnx.Param(jax.random.normal(rngs.params(), (V,)))

    def hidden(self, batch, key=None):
        return jnp.tanh(self.embedding[...][batch.tokens_BT]), {"own": Mean(jnp.float32(3), jnp.float32(1))}

    def head(self, hidden_ND):
        logits_NV = hidden_ND @ self.kernel[...]
        return logits_NV + jnp.broadcast_to(self.bias[...], logits_NV.shape)


@pytest.fixture(scope="module")
def model():
    return split(Model(nnx.Rngs(0)))


def batch():
    ids, targets = (RNG.integers(0, V, (B, T)).astype(np.int32) for _ in range(2))
    weights = (RNG.random((B, T)) * (RNG.random((B, T)) < 0.6)).astype(np.float32)
    return Batch(ids, targets, weights, np.ones((B, T), np.int32), np.zeros((B, T), np.int32))


BATCH = batch()


def chunked(monkeypatch, positions):
    """A budget for the logits of so many positions of every row."""
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * B * V * positions)


@pytest.mark.parametrize(
    "arguments", [{}, {"label_smoothing": 0.3}, {"z_loss": 0.1}, {"label_smoothing": 0.2, "z_loss": 0.05}]
)
def test_cross_entropy_is_the_closed_form(model, arguments):
    graphdef, params = model
    wide = {name: np.asarray(x, np.float64) for name, x in params.items()}
    logits = np.tanh(wide["embedding"][BATCH.tokens_BT]) @ wide["kernel"] + wide["bias"]
    log_z = np.log(np.exp(logits).sum(-1))
    smoothing = arguments.get("label_smoothing", 0.0)
    aim = (1 - smoothing) * np.eye(V)[BATCH.targets_BT] + smoothing / V
    losses = (aim * (log_z[..., None] - logits)).sum(-1) + arguments.get("z_loss", 0.0) * log_z**2
    expected = np.average(losses, weights=BATCH.weights_BT)
    metrics = cross_entropy(bind(graphdef, params), BATCH, **arguments)
    assert float(value(metrics["loss"])) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["loss"].count) == pytest.approx(BATCH.weights_BT.sum(), rel=1e-6)


def test_token_logprobs_normalise_and_stay_finite():
    logits = jnp.asarray(RNG.normal(size=(5, V)) * 3, jnp.float32)
    every = jnp.stack([token_logprobs(logits, jnp.full(5, v)) for v in range(V)])
    np.testing.assert_allclose(jnp.exp(every).sum(0), 1.0, rtol=1e-5)
    extreme = token_logprobs(jnp.array([[1e4, -1e4, 0.0]], jnp.bfloat16), jnp.array([1]))
    assert extreme.dtype == jnp.float32
    assert float(extreme[0]) == pytest.approx(-2e4, rel=1e-2)


def objective(graphdef, batch, **arguments):
    return lambda params: value(cross_entropy(bind(graphdef, params), batch, **arguments)["loss"])


def nonlinear(graphdef):
    """What no sum over tokens is: the gradient of a token is known only when all are."""

    def loss(params):
        logps_BT, _ = over_tokens(bind(graphdef, params), BATCH, token_logprobs)
        return -jnp.sum(jax.nn.log_sigmoid(jnp.sum(logps_BT * BATCH.weights_BT, 1)))

    return loss


@pytest.mark.parametrize("kind", ["a mean", "nonlinear"])
@pytest.mark.parametrize("positions", [1, 5, 12])
def test_chunks_give_the_same_value_and_gradients(model, monkeypatch, positions, kind):
    """13 positions divide into none of these."""
    graphdef, params = model
    mean = objective(graphdef, BATCH, label_smoothing=0.1, z_loss=0.01)
    loss = mean if kind == "a mean" else nonlinear(graphdef)
    whole, gradients = jax.jit(jax.value_and_grad(loss))(params)
    chunked(monkeypatch, positions)
    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert "scan" in text
    assert f"[{B},{T},{V}]" not in text
    assert f"[{B * T},{V}]" not in text
    found, others = jax.jit(jax.value_and_grad(loss))(params)
    assert float(found) == pytest.approx(float(whole), rel=1e-6)
    for name, g in gradients.items():
        np.testing.assert_allclose(others[name], g, rtol=1e-6, atol=1e-6 * float(jnp.abs(g).max()), err_msg=name)


def test_what_fits_is_not_cut(model, monkeypatch):
    graphdef, params = model
    chunked(monkeypatch, T)
    text = str(jax.make_jaxpr(jax.grad(objective(graphdef, BATCH)))(params))
    assert "scan" not in text
    assert "remat" not in text


def test_any_tree_of_values_comes_back_in_its_place(model, monkeypatch):
    graphdef, params = model
    bound = bind(graphdef, params)
    heavy = dataclasses.replace(BATCH, weights_BT=np.ones((B, T), np.float32))

    def fn(logits_NV, targets_N):
        return {"logp": token_logprobs(logits_NV, targets_N), "target": targets_N}

    whole, aux = over_tokens(bound, heavy, fn)
    np.testing.assert_array_equal(whole["target"], BATCH.targets_BT)
    assert aux["own"].value() == 3
    for positions in (2, 5):
        chunked(monkeypatch, positions)
        parts, _ = over_tokens(bound, heavy, fn)
        np.testing.assert_array_equal(parts["target"], BATCH.targets_BT)
        np.testing.assert_allclose(parts["logp"], whole["logp"], rtol=1e-6)


def test_what_is_not_learned_is_not_looked_at_wherever_it_stands(model, monkeypatch):
    graphdef, params = model
    chunked(monkeypatch, 4)  # 13 positions are 4 chunks of 4, of which what is learned fills two
    learned = np.argsort(RNG.random((B, T)), axis=1) < 8
    spoiled = np.where(learned, np.minimum(BATCH.tokens_BT, 6), 7).astype(np.int32)
    weights = np.where(learned, RNG.random((B, T)), 0).astype(np.float32)
    light = dataclasses.replace(BATCH, tokens_BT=spoiled, weights_BT=weights)

    class Spoiled(Model):
        def head(self, hidden_ND):
            own = jnp.isclose(hidden_ND, jnp.broadcast_to(jnp.tanh(self.embedding[7]), hidden_ND.shape)).all(-1)
            return jnp.where(own[:, None], jnp.nan, super().head(hidden_ND))

    spoiled_def, _ = split(Spoiled(nnx.Rngs(0)))
    found, gradients = jax.jit(jax.value_and_grad(objective(spoiled_def, light)))(params)
    expected, others = jax.jit(jax.value_and_grad(objective(graphdef, light)))(params)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradients, others)
    # With weight it is looked at: the model is spoiled indeed.
    heavy = dataclasses.replace(light, weights_BT=np.ones((B, T), np.float32))
    assert np.isnan(jax.jit(objective(spoiled_def, heavy))(params))


@pytest.mark.parametrize("text", ["data=8", "data=2,fsdp=2,tensor=2", "fsdp=2,context=2,tensor=2"])
@pytest.mark.parametrize("is_set", [True, False])
def test_chunks_of_a_sharded_batch(model, monkeypatch, text, is_set):
    """With the mesh set the budget is each device's; without, it is of all rows."""
    graphdef, params = model
    rows = jax.tree.map(lambda x: x[:, :12], BATCH)  # two divide them
    loss = lambda params, batch: objective(graphdef, batch, z_loss=0.01)(params)
    whole, gradients = jax.jit(jax.value_and_grad(loss))(params, rows)
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * V * (4 if is_set else 4 * B))
    mesh = make_mesh(text)
    kernel = jax.device_put(params["kernel"], NamedSharding(mesh, P("fsdp", None)))
    with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
        step = jax.jit(jax.value_and_grad(loss))
        placed = params | {"kernel": kernel}, put_batch(rows, mesh, B)
        found, others = step(*placed)
        jaxpr = str(jax.make_jaxpr(step)(*placed))
    assert "scan" in jaxpr
    assert float(found) == pytest.approx(float(whole), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), others, gradients)


@dataclasses.dataclass(frozen=True)
class Wide:
    """Hidden states that are given, and a head of a real vocabulary's size."""

    hidden_BTD: Any
    table: Any
    tied: bool

    def hidden(self, batch, key=None):
        return self.hidden_BTD, {}

    def head(self, hidden_ND):
        return matmul(hidden_ND, self.table.T if self.tied else self.table)


def temporaries(vocab, tied, budget, monkeypatch):
    """Bytes that the compiled value and gradients of 8,192 tokens at width 512 take beside arguments and results."""
    monkeypatch.setattr(tokens, "LOGITS_BYTES", budget)
    ids, weights = jax.ShapeDtypeStruct((16, 512), jnp.int32), jax.ShapeDtypeStruct((16, 512), jnp.float32)
    hidden = jax.ShapeDtypeStruct((16, 512, 512), jnp.float32)
    table = jax.ShapeDtypeStruct((vocab, 512) if tied else (512, vocab), jnp.float32)
    loss = lambda hidden, table, batch: value(cross_entropy(Wide(hidden, table, tied), batch)["loss"])
    lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(hidden, table, Batch(ids, ids, weights, ids, ids))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("tied", [False, True])
def test_memory_is_that_of_a_chunk_whatever_the_vocabulary(tied, monkeypatch):
    budget = tokens.LOGITS_BYTES
    found = {vocab: temporaries(vocab, tied, budget, monkeypatch) for vocab in (25_000, 50_257, 200_000)}
    assert found[50_257] <= temporaries(50_257, tied, 2**60, monkeypatch) / 8
    beside = [size - 4 * 512 * vocab for vocab, size in found.items()]  # the head's gradient
    assert max(beside) <= 1.2 * min(beside)


def test_a_device_has_a_budget_of_its_own(model, monkeypatch):
    """Eight devices look at as many positions at a time as one does of an eighth of the rows."""
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * V * 4)
    alone = chunks(model, jax.tree.map(lambda x: x[:1], BATCH))
    assert alone == 4
    assert chunks(model, BATCH) == 13
    with jax.set_mesh(make_mesh("fsdp=8")):
        assert chunks(model, BATCH) == alone


@pytest.mark.parametrize(("platform", "count"), [("cpu", 13), ("tpu", 3), ("gpu", 3)])
def test_a_chunk_of_an_accelerator_has_tokens_enough_to_be_worth_the_head(platform, count, model, monkeypatch):
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 1)
    monkeypatch.setattr(tokens, "FEWEST", 5 * B)
    with planned(Planning([], platform, Path())):
        assert chunks(model, BATCH) == count


def chunks(model, batch):
    graphdef, params = model
    text = str(jax.make_jaxpr(objective(graphdef, batch))(params))
    return int(re.search(r"scan\[.*?length=(\d+)", text, re.DOTALL)[1])


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_positions_come_to_the_front_in_their_order(share):
    is_front_BT = RNG.random((3, 40)) < share
    order_BT, back_BT = to_front(is_front_BT)
    assert np.array_equal(order_BT, np.argsort(~is_front_BT, axis=1, kind="stable"))
    assert np.array_equal(back_BT, np.argsort(order_BT, axis=1))


def test_a_function_of_the_logits_is_a_loss(model, monkeypatch):
    graphdef, params = model

    @token_loss
    def margin(logits_NV, targets_N, *, scale=1.0):
        """Its docstring stays."""
        return scale * (logits_NV.max(-1) - jnp.take_along_axis(logits_NV, targets_N[:, None], -1)[:, 0])

    assert margin.__doc__ == "Its docstring stays."
    bound = bind(graphdef, params)
    logits = np.asarray(bound.head(bound.hidden(BATCH)[0].reshape(-1, D))).reshape(B, T, V)
    gap = logits.max(-1) - np.take_along_axis(logits, BATCH.targets_BT[..., None], -1)[..., 0]
    for positions in (T, 3):
        chunked(monkeypatch, positions)
        found = value(margin(bound, BATCH, scale=2.0)["loss"])
        assert float(found) == pytest.approx(2 * np.average(gap, weights=BATCH.weights_BT), rel=1e-5)
