"""The CRF: value, gradients and limits against an enumeration of all label sequences."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.data.packing import Example, collate
from jaxllm.data.tagging import chains
from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses import cross_entropy, resolve
from jaxllm.losses.crf import crf
from jaxllm.types import InputError, value

V, D, TOKENS = 4, 3, 11


@dataclasses.dataclass(frozen=True)
class Model:
    """Logits from the token and its position in its sentence."""

    params: dict

    def hidden(self, batch, key=None):
        x_BTD = self.params["table"][batch.tokens_BT]
        return x_BTD * jnp.cos(batch.positions_BT.astype(x_BTD.dtype))[..., None], {}

    def head(self, hidden):
        return hidden @ self.params["out"]

    def transitions(self):
        return tuple(self.params[name] for name in ("start", "pairs", "end"))


SHAPES = {"table": (TOKENS, D), "out": (D, V), "start": (V,), "pairs": (V, V), "end": (V,)}


def params(seed=0):
    draw = np.random.default_rng(seed)
    return {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def sentences(*lengths):
    draw = np.random.default_rng(1)
    made = []
    for length in lengths:
        weights = (draw.random(length) < 0.6).astype(np.float32)
        made.append(Example(draw.integers(0, TOKENS, length).astype(np.int32),
                            draw.integers(0, V, length).astype(np.int32), weights))  # fmt: skip
    return made


EXAMPLES = sentences(5, 1, 7, 4, 6, 3)
SINGLE = collate([[example] for example in EXAMPLES], 7, 8)
PACKED = collate([EXAMPLES[:3], [], EXAMPLES[3:5], EXAMPLES[5:]], 24, 8)


def loss(params, batch):
    return value(crf(Model(params), jax.tree.map(jnp.asarray, batch))["loss"])


compute = jax.jit(jax.value_and_grad(loss))


@jax.jit
@jax.value_and_grad
def enumerated(params):
    """The loss by all label sequences of each sentence."""
    model, total, words = Model(params), 0.0, 0
    for example in EXAMPLES:
        batch = jax.tree.map(jnp.asarray, collate([[example]], len(example.tokens), 1))
        at = np.flatnonzero(example.weights)
        if not len(at):
            continue
        logits_WV = model.head(model.hidden(batch)[0])[0, at]
        start, pairs, end = model.transitions()
        every = np.array([example.targets[at], *itertools.product(range(V), repeat=len(at))])  # its own first
        inner = logits_WV[np.arange(len(at)), every].sum(1) + pairs[every[:, :-1], every[:, 1:]].sum(1)
        scores = start[every[:, 0]] + inner + end[every[:, -1]]
        total += jax.nn.logsumexp(scores[1:]) - scores[0]
        words += len(at)
    return total / words


def test_value_and_gradients_are_those_of_all_sequences_however_they_are_packed():
    expected = enumerated(params())
    for batch in (SINGLE, PACKED):
        found = compute(params(), batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


def test_without_transitions_it_is_cross_entropy():
    flat = {name: x * (name in ("table", "out")) for name, x in params().items()}
    batch = jax.tree.map(jnp.asarray, PACKED)
    assert float(compute(flat, PACKED)[0]) == pytest.approx(
        float(value(cross_entropy(Model(flat), batch)["loss"])), rel=1e-6
    )


def test_logits_have_the_gradient_of_marginals_and_eight_devices_agree():
    draw = np.random.default_rng(2)
    table = jnp.asarray(draw.normal(size=(5, V)), jnp.float32)
    chain = params()
    example = Example(np.arange(5, dtype=np.int32), np.array([1, 0, 3, 3, 2], np.int32), np.ones(5, np.float32))
    batch = collate([[example]], 5, 1)
    batch = dataclasses.replace(batch, positions_BT=np.zeros_like(batch.positions_BT))
    slopes = jax.jit(jax.grad(lambda table: loss({**chain, "table": table, "out": jnp.eye(V)}, batch)))(table)
    scored = chains.Chain(*(np.asarray(chain[name], np.float64) for name in ("start", "pairs", "end")))
    (p,) = chains.marginals([np.asarray(table, np.float64)], scored)
    np.testing.assert_allclose(5 * slopes, p - np.eye(V)[example.targets], atol=2e-6)
    for axes in ("data=8", "data=2,context=4"):
        mesh = make_mesh(axes)
        with jax.set_mesh(mesh):
            found = compute(params(), put_batch(PACKED, mesh, 8))
        expected = compute(params(), PACKED)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_model_without_transitions_is_refused():
    class Plain(Model):
        def transitions(self):
            return None

    with pytest.raises(InputError, match="the model has none"):
        resolve("crf")(Plain(params()), jax.tree.map(jnp.asarray, SINGLE))
