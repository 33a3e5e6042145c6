"""DeBERTa's encoder: however it is computed the same, every rate used, impossible configurations refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh, put_batch, shardings
from jaxllm.models import deberta
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import bind, describe
from jaxllm.types import Batch, InputError

SMALL = deberta.Config(
    vocab_size=31, width=16, depth=2, heads=2, mlp_width=16, max_positions=16, token_types=0, unroll=1, reach=12,
    buckets=4, content_to_position=True, position_to_content=True, relative_norm=True, absolute_positions=False,
    conv_taps=3,
)  # fmt: skip


def spec_of(**changes):
    config = TaggerConfig(dataclasses.replace(SMALL, **changes), ("O", "B", "I"), classifier_dropout=0.0)
    return describe(lambda rngs: Tagger(config, rngs), SHARDING)


def params_of(spec):
    rng = np.random.default_rng(0)
    shapes = spec.graphdef.abstract.items()
    return {n: (0.3 * rng.normal(size=x.shape) + n.endswith(".scale")).astype(np.float32) for n, x in shapes}


def batch_of(rows, length):
    """Rows of texts, each a number of tokens; their ids follow from row and place in the text."""
    tokens, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, texts in enumerate(rows):
        start = 0
        for segment, size in enumerate(texts, start=1):
            at = row, slice(start, start + size)
            tokens[at] = 1 + (np.arange(size) * 7 + size) % 30
            segments[at], positions[at] = segment, np.arange(size)
            start += size
    return Batch(tokens, tokens % 3, (segments > 0).astype(np.float32), segments, positions)


def loss(graphdef, params, batch, key=None):
    """The sum of cross entropies, and hidden_BTD."""
    model = bind(graphdef, params)
    hidden_BTD, _ = model.hidden(batch, key)
    logps = jax.nn.log_softmax(model.head(hidden_BTD))
    own = jnp.take_along_axis(logps, batch.targets_BT[..., None], axis=-1)[..., 0]
    return -jnp.sum(own * batch.weights_BT), hidden_BTD


run = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True), static_argnums=0)


def test_packed_rows_are_single_rows():
    """The convolution too sees nothing across the ends of a text: hidden states and gradients are those of one each."""
    spec = spec_of()
    params = params_of(spec)
    (packed, hidden), grads = run(spec.graphdef, params, batch_of([(6, 1, 5), (9,)], 14))
    (alone, single), expected = run(spec.graphdef, params, batch_of([(6,), (1,), (5,), (9,)], 9))
    np.testing.assert_allclose(packed, alone, rtol=1e-6)
    for start, row, size in ((0, 0, 6), (6, 1, 1), (7, 2, 5)):
        np.testing.assert_allclose(hidden[0, start : start + size], single[row, :size], atol=2e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], atol=2e-5, err_msg=name)


def test_the_same_however_it_is_computed():
    batch, spec = batch_of([(6, 4), (9,)], 10), spec_of()
    params = params_of(spec)
    (value, hidden), grads = run(spec.graphdef, params, batch)
    for changes in ({"unroll": 2}, {"remat": "full"}, {"remat": "dots"}):
        (value_, hidden_), grads_ = run(spec_of(**changes).graphdef, params, batch)
        np.testing.assert_allclose(value_, value, rtol=1e-6, err_msg=str(changes))
        np.testing.assert_allclose(hidden_, hidden, atol=2e-6)
        for name, grad in grads.items():
            np.testing.assert_allclose(grads_[name], grad, atol=1e-5, err_msg=f"{changes} {name}")
    (low, hidden_), _ = run(spec_of(dtype="bfloat16").graphdef, params, batch)
    assert hidden_.dtype == jnp.bfloat16
    np.testing.assert_allclose(low, value, rtol=0.02)


@pytest.mark.parametrize("text", ["data=2,tensor=2,context=2", "fsdp=2,tensor=2,context=2"])
def test_a_sequence_cut_over_context_is_the_whole_one(text):
    """No ring: the compiler gathers keys and values. The numbers are those of one device."""
    batch, spec = batch_of([(6, 4), (9,), (16,), (3, 3, 3)] * 2, 16), spec_of()
    params = params_of(spec)
    (value, hidden), grads = run(spec.graphdef, params, batch)
    mesh = make_mesh(text)
    at = shardings(spec.graphdef.abstract, mesh, spec.rules, limits=spec.graphdef.limits)
    placed = {name: jax.device_put(x, at[name]) for name, x in params.items()}
    with jax.set_mesh(mesh):
        (value_, hidden_), grads_ = run(spec.graphdef, placed, put_batch(batch, mesh, 8))
    np.testing.assert_allclose(value_, value, rtol=1e-6)
    np.testing.assert_allclose(hidden_, hidden, atol=5e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(grads_[name], grad, atol=1e-4 * max(1, np.abs(grad).max()), err_msg=name)


def test_every_rate_is_used():
    """Each dropout of the configuration, alone, changes the output; all off, a key changes nothing."""
    off = {field.name: 0.0 for field in dataclasses.fields(SMALL) if field.name.endswith("dropout")}
    assert {"position_dropout", "conv_dropout"} < off.keys()
    batch, params, outputs = batch_of([(9,)], 9), params_of(spec_of()), {}
    forward = jax.jit(lambda graphdef, params, key: loss(graphdef, params, batch, key)[1], static_argnums=0)
    for rate in ("", *off):
        spec = spec_of(depth=2, **off | ({rate: 0.5} if rate else {}))
        outputs[rate] = np.asarray(forward(spec.graphdef, params, jax.random.key(0)))
    for rate in off:
        assert np.abs(outputs[rate] - outputs[""]).max() > 1e-3, rate
    np.testing.assert_allclose(forward(spec_of(**off).graphdef, params, None), outputs[""], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_base": 1e4}, "rope_base is 10000.0, which DeBERTa does not have"),
        ({"pre_norm": True}, "pre_norm is True"),
        ({"groups": 1}, "groups is 1"),
        ({"reach": 0}, "relative positions need a reach and c2p, p2c or both"),
        ({"content_to_position": False, "position_to_content": False}, "relative positions need a reach"),
        ({"buckets": 1}, "1 buckets for distances below 12; choose 2 to 21"),
        ({"buckets": 22}, "22 buckets for distances below 12; choose 2 to 21"),
        ({"conv_taps": 4}, "4 taps has no middle"),
        ({"heads": 3}, "3 heads do not divide a width of 16"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **changes)
