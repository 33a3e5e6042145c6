"""One step of every kind of model, head and loss on meshes that cut sequences and experts, against one device."""

import collections
import re

import jax
import numpy as np
import pytest
from step_cases import CASES, LLAMA, SGD, UNEVEN, VOCAB, B, plain, rows

from jaxllm.distributed.mesh import make_mesh, put_batch, replicated, shardings
from jaxllm.losses import resolve, tokens
from jaxllm.models import decoder
from jaxllm.params import describe
from jaxllm.train.setup import compile_step
from jaxllm.train.step import make_train_step
from jaxllm.types import TrainState, value


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """The head sees the sequence in several pieces."""
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * B * VOCAB * 10)


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_one_device(case):
    build, rules, loss, make, text = CASES[case]
    spec, batch = describe(build, rules), make()
    draw = np.random.default_rng(0)
    shapes = spec.graphdef.abstract.items()
    params = {n: (0.3 * draw.normal(size=x.shape) + n.endswith("scale")).astype(np.float32) for n, x in shapes}
    found = {}
    for mesh in (make_mesh("", jax.devices()[:1]), make_mesh(text)):
        at = shardings(spec.graphdef.abstract, mesh, rules, limits=spec.graphdef.limits)
        placed = {n: jax.device_put(x, at[n]) for n, x in params.items()}
        state = TrainState(jax.device_put(np.int32(0), replicated(mesh)), placed, SGD.init(placed))
        step = make_train_step(spec.graphdef, resolve(loss), SGD, seed=0)
        train = compile_step(step, "jit", mesh, at, shardings(SGD.init(placed), mesh, rules))
        after, metrics = train(state, put_batch(batch, mesh, B))
        gradients = {n: params[n] - np.asarray(x) for n, x in after.params.items()}
        found[mesh.size] = gradients, {name: float(value(metric)) for name, metric in metrics.items()}
        assert all(x.sharding == at[n] for n, x in after.params.items())
    (expected, numbers), (gradients, on_mesh) = found[1], found[8]
    assert on_mesh == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    largest = max(np.abs(x).max() for x in expected.values())
    assert largest > 1e-2
    for name, x in expected.items():
        np.testing.assert_allclose(gradients[name], x, atol=1e-5 * max(1, largest), err_msg=name)


def matmuls(build, rules, batch, text):
    """The shapes of what one device multiplies in a step, with how often."""
    spec, mesh = describe(build, rules), make_mesh(text)
    at = shardings(spec.graphdef.abstract, mesh, rules)
    params = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at[n]) for n, x in spec.graphdef.abstract.items()}
    step = make_train_step(spec.graphdef, resolve("cross_entropy"), SGD, seed=0)
    state = TrainState(jax.ShapeDtypeStruct((), np.int32, sharding=replicated(mesh)), params, SGD.init(params))
    with jax.set_mesh(mesh):
        text = jax.jit(step).lower(state, put_batch(batch, mesh, B)).compile().as_text()
    found = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text)
    assert "custom_call_target" not in text, "else there are multiplications that are not seen here"
    return collections.Counter(shape for shape in found if shape.count(",") == 1)


def test_what_is_cut_over_fsdp_is_computed_once():
    """A device of eight multiplies the same with parameters in parts as with copies of them: its own rows alone."""
    copies = matmuls(plain(LLAMA), decoder.SHARDING, rows(), "data=8")
    assert copies.total() > 20
    assert matmuls(plain(LLAMA), decoder.SHARDING, rows(), "data=2,fsdp=4") == copies


def test_a_vocabulary_is_computed_in_parts_where_they_are_uneven_too():
    """A device has the columns of its part of 49 logits: 25 or, of the second, 24 and one of zeros."""
    shapes = matmuls(plain(UNEVEN), decoder.SHARDING, rows(), "fsdp=4,tensor=2")
    sizes = {int(size) for shape in shapes for size in shape.split(",")}
    assert 25 in sizes
    assert not {49, 50} & sizes
