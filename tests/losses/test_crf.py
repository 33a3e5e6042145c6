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


def enumerated(params):
    """The loss by all label sequences of each sentence."""
    model, total, words = Model(params), 0.0, 0
    for example in EXAMPLES:
        batch = jax.tree.map(jnp.asarray, collate([[example]], len(example.tokens), 1))
        logits_TV = model.head(model.hidden(batch)[0])[0]
        at = np.flatnonzero(example.weights)
        if not len(at):
            continue
        start, pairs, end = model.transitions()

        def score(path, at=at, logits_TV=logits_TV, start=start, pairs=pairs, end=end):
            inner = sum(logits_TV[t, y] for t, y in zip(at, path, strict=True))
            return start[path[0]] + inner + sum(pairs[a, b] for a, b in itertools.pairwise(path)) + end[path[-1]]

        paths = np.array(list(itertools.product(range(V), repeat=len(at))))
        scores = jnp.stack([jax.vmap(lambda *p: score(p))(*paths.T)])[0]
        total += jax.nn.logsumexp(scores) - score(tuple(example.targets[at].tolist()))
        words += len(at)
    return total / words


def test_value_and_gradients_are_those_of_all_sequences_however_they_are_packed():
    expected = jax.value_and_grad(enumerated)(params())
    compute = jax.jit(jax.value_and_grad(loss))
    for batch in (SINGLE, PACKED):
        found = compute(params(), batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


def test_without_transitions_it_is_cross_entropy():
    flat = {name: x * (name in ("table", "out")) for name, x in params().items()}
    batch = jax.tree.map(jnp.asarray, PACKED)
    assert float(loss(flat, PACKED)) == pytest.approx(float(value(cross_entropy(Model(flat), batch)["loss"])), rel=1e-6)


def test_logits_have_the_gradient_of_marginals_and_eight_devices_agree():
    draw = np.random.default_rng(2)
    table = jnp.asarray(draw.normal(size=(5, V)), jnp.float32)
    chain = params()
    example = Example(np.arange(5, dtype=np.int32), np.array([1, 0, 3, 3, 2], np.int32), np.ones(5, np.float32))
    batch = collate([[example]], 5, 1)
    batch = dataclasses.replace(batch, positions_BT=np.zeros_like(batch.positions_BT))
    slopes = jax.grad(lambda table: loss({**chain, "table": table, "out": jnp.eye(V)}, batch))(table)
    scored = chains.Chain(*(np.asarray(chain[name], np.float64) for name in ("start", "pairs", "end")))
    (p,) = chains.marginals([np.asarray(table, np.float64)], scored)
    np.testing.assert_allclose(5 * slopes, p - np.eye(V)[example.targets], atol=2e-6)
    for axes in ("data=8", "data=2,context=4"):
        mesh = make_mesh(axes)
        with jax.set_mesh(mesh):
            found = jax.jit(jax.value_and_grad(lambda p, b: value(crf(Model(p), b)["loss"])))(
                params(), put_batch(PACKED, mesh, 8)
            )
        expected = jax.jit(jax.value_and_grad(loss))(params(), PACKED)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_model_without_transitions_is_refused():
    class Plain(Model):
        def transitions(self):
            return None

    with pytest.raises(InputError, match="the model has none"):
        resolve("crf")(Plain(params()), jax.tree.map(jnp.asarray, SINGLE))
