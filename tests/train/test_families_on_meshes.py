"""One step of every family of models, on every kind of mesh and under pmap, against one device."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import optax
import pytest
from families import DECODERS, ENCODERS, LABELS, VOCAB, family

from jaxllm.checkpoint.store import Checkpoints, read_params
from jaxllm.data.packing import Example, collate
from jaxllm.distributed.mesh import make_mesh, replicated, shardings
from jaxllm.hf.save import export
from jaxllm.losses import resolve, tokens
from jaxllm.models.vocabulary import AXES
from jaxllm.params import bind
from jaxllm.train.setup import compile_step, put
from jaxllm.train.step import make_train_step
from jaxllm.types import TrainState, value

pytestmark = pytest.mark.slow

B, T = 8, 16
KEEP = optax.trace(0.0)
"""An optimizer whose state is the gradient."""


def rows():
    """Packed documents, of which the devices' rows weigh very differently."""
    rng = np.random.default_rng(0)

    def example(length):
        of = rng.integers(1, VOCAB, length + 1).astype(np.int32)
        return Example(of[:-1], of[1:], rng.uniform(0, 2, length).astype(np.float32) * (rng.random(length) < 0.7))

    return collate([[example(n) for n in lengths] for lengths in [(16,), (5, 9), (7, 7, 2), (12,), (2, 3)]], T, B)


def take_step(spec, params, batch, mesh, strategy="jit", microbatches=1):
    """The gradient of every parameter, and the metrics."""
    at = shardings(spec.graphdef.abstract, mesh, spec.rules, limits=spec.graphdef.limits)
    placed = {n: jax.device_put(x, at[n]) for n, x in params.items()}
    opt_at = shardings(jax.eval_shape(KEEP.init, placed), mesh, spec.rules, placed)
    state = TrainState(jax.device_put(np.int32(0), replicated(mesh)), placed, jax.device_put(KEEP.init(placed), opt_at))
    axis = "data" if strategy == "pmap" else None
    loss = resolve("cross_entropy")
    step = make_train_step(spec.graphdef, loss, KEEP, seed=0, axis=axis, microbatches=microbatches)
    train = compile_step(step, strategy, mesh, at, opt_at)
    n = len(batch.tokens_BT)
    after, metrics = train(state, put(batch, mesh, n, range(n), strategy))
    return jax.tree.map(np.asarray, after.opt_state.trace), {name: float(value(x)) for name, x in metrics.items()}


def begin(kind, **fields):
    """A model, parameters large enough that all of it shows, and a batch for it."""
    spec, batch, draw = family(kind, **fields), rows(), np.random.default_rng(0)
    if kind in ENCODERS:
        batch = dataclasses.replace(batch, targets_BT=batch.tokens_BT % len(LABELS))
    shapes = spec.graphdef.abstract.items()
    params = {n: (0.3 * draw.normal(size=x.shape) + n.endswith("scale")).astype(np.float32) for n, x in shapes}
    return spec, params, batch


@functools.cache
def on_one_device(kind):
    return take_step(*begin(kind), make_mesh("", jax.devices()[:1]))


MESHES = ["data=8", "fsdp=8", "fsdp=4,tensor=2", "data=2,fsdp=2,tensor=2", "pmap"]
QUICK = {"gpt2": MESHES[3], "qwen3_moe": "pmap", "modernbert": MESHES[3]}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(kind, text, marks=() if QUICK.get(kind) == text else pytest.mark.slow)
        for kind in (*DECODERS, *ENCODERS)
        for text in MESHES
    ],
)
def test_a_step_is_that_of_one_device(kind, text):
    """The loss within 1e-5; each gradient within 1e-4 of its largest, or of a thousandth of the model's largest."""
    gradients, metrics = on_one_device(kind)
    strategy, mesh = ("pmap", make_mesh("data=8")) if text == "pmap" else ("jit", make_mesh(text))
    found, numbers = take_step(*begin(kind), mesh, strategy)
    assert numbers == pytest.approx(metrics, rel=1e-5, abs=1e-5)
    assert_close(found, gradients)


def assert_close(found, gradients):
    largest = max(np.abs(x).max() for x in gradients.values())
    assert largest > 1e-2
    assert found.keys() == gradients.keys()
    for name, x in gradients.items():
        atol = 1e-4 * max(np.abs(x).max(), 1e-3 * largest)
        np.testing.assert_allclose(found[name], x, atol=atol, rtol=0, err_msg=name)


def test_microbatches_have_balances_of_their_own():
    """The metric is their mean, weighted by tokens, as that of separate batches would be."""
    spec, params, batch = begin("mixtral")
    one = make_mesh("", jax.devices()[:1])
    _, metrics = take_step(spec, params, batch, one, microbatches=2)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
    found = [take_step(spec, params, half, one)[1]["router_balance"] for half in halves]
    counts = [np.sum(half.segments_BT > 0) for half in halves]
    assert metrics["router_balance"] == pytest.approx(np.average(found, weights=counts), rel=1e-5)
    assert abs(metrics["router_balance"] - on_one_device("mixtral")[1]["router_balance"]) > 1e-4


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"vocab_size": 49}),
        pytest.param("llama", {"vocab_size": 51, "tie_word_embeddings": False}, marks=pytest.mark.slow),
    ],
)
def test_a_vocabulary_that_the_mesh_does_not_divide(kind, fields, monkeypatch):
    """Parameters keep their shapes, and each device an eighth of them; each computes its half of the logits."""
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * B * VOCAB * 5)  # several chunks
    spec, params, batch = begin(kind, **fields)
    assert params["embeddings.tokens.embedding"].shape[0] % 2 == 1
    gradients, metrics = take_step(spec, params, batch, make_mesh("", jax.devices()[:1]))
    mesh = make_mesh("fsdp=4,tensor=2")
    at = shardings(spec.graphdef.abstract, mesh, spec.rules)
    for name in AXES.keys() & params.keys():
        x = spec.graphdef.abstract[name]
        assert math.prod(at[name].shard_shape(x.shape)) * 8 == x.size
    found, numbers = take_step(spec, params, batch, mesh)
    assert numbers["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert_close(found, gradients)
    hidden = jax.ShapeDtypeStruct((8, spec.graphdef.abstract["norm.scale"].shape[0]), np.float32)
    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at[n]) for n, x in spec.graphdef.abstract.items()}
    with jax.set_mesh(mesh):
        head = jax.jit(lambda params, hidden: bind(spec.graphdef, params).head(hidden).max())
        text = head.lower(shapes, hidden).compile().as_text()
    products = {int(re.search(r"(\d+)\]", line)[1]) for line in text.splitlines() if re.search(r" dot\(", line)}
    assert products == {-(-fields["vocab_size"] // 2)}


def test_such_a_vocabulary_is_saved_and_exported_as_it_is(tmp_path):
    spec, params, _ = begin("gpt2", vocab_size=49)
    meshes = [make_mesh(text, jax.devices()[:n]) for text, n in (("fsdp=4,tensor=2", 8), ("fsdp=8", 8), ("", 1))]
    at = [shardings(spec.graphdef.abstract, mesh, spec.rules) for mesh in meshes]
    placed = {n: jax.device_put(x, at[0][n]) for n, x in params.items()}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, TrainState(jax.device_put(np.int32(0), replicated(meshes[0])), placed, KEEP.init(placed)), {})
    checkpoints.close()
    config = bind(spec.graphdef, spec.graphdef.abstract).config
    for i, on in enumerate(at):
        like = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on[n]) for n, x in params.items()}
        found = read_params(tmp_path, like)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        export(tmp_path / str(i), found, config, None)
    written = [(tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(3)]
    assert written[0] == written[1] == written[2]
