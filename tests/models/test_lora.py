"""Adapters: what they compute, what they leave alone, and that only they are trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.evals.generate import Sampling, generate
from jaxllm.losses import resolve
from jaxllm.models import decoder, encoder, lora
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import bind, describe
from jaxllm.train.step import make_train_step
from jaxllm.types import Answers, Batch, InputError, TrainState, value

SHAPE = decoder.Config(vocab_size=24, width=16, depth=3, heads=4, kv_heads=2, mlp_width=24, max_positions=32, unroll=1)


def base(**changes):
    shape = dataclasses.replace(SHAPE, **changes)
    return describe(lambda rngs: decoder.Decoder(shape, rngs), decoder.SHARDING)


def tagger():
    shape = encoder.Config(vocab_size=23, width=16, depth=2, heads=2, mlp_width=24, max_positions=32, unroll=1)
    return describe(lambda rngs: Tagger(TaggerConfig(shape, ("O", "X")), rngs), SHARDING)


def arrays(spec, mesh="", b=0.0, head=1.0):
    """Random parameters, B and the head's kernel of these deviations; by default on one device."""
    devices = jax.devices() if mesh else jax.devices()[:1]
    at, rng = shardings(spec.graphdef.abstract, make_mesh(mesh, devices), spec.rules), np.random.default_rng(3)

    def one(name, x):
        stacked = x.shape[-2] ** -0.5 if x.ndim > 2 else 1.0
        deviation = b if name.endswith(lora.B) else head if name == "unembed.kernel" else stacked
        return jax.device_put((rng.normal(size=x.shape) * deviation).astype(x.dtype), at[name])

    return {name: one(name, x) for name, x in spec.graphdef.abstract.items()}


TOKENS = np.random.default_rng(0).integers(0, 23, (2, 10)).astype(np.int32)
ONES = np.ones_like(TOKENS)
BATCH = Batch(
    TOKENS, np.roll(TOKENS, -1, 1), ONES.astype(np.float32), ONES, np.tile(np.arange(10, dtype=np.int32), (2, 1))
)


@functools.partial(jax.jit, static_argnums=(0, 3))
def forward(graphdef, params, key, teacher):
    model = bind(graphdef, params)
    model = model.teacher if teacher else model
    return model.head(model.hidden(BATCH, key)[0])


def logits(spec, params, key=None, teacher=False):
    return np.asarray(forward(spec.graphdef, params, key, teacher))


def test_names_shapes_and_what_is_frozen():
    plain, spec = base(), lora.add(base(), lora.Config(4, targets=("blocks.attn.q", "blocks.mlp.down")))
    abstract = spec.graphdef.abstract
    assert plain.graphdef.abstract == {n: x for n, x in abstract.items() if not n.endswith((lora.A, lora.B))}
    assert {name: x.shape for name, x in spec.trained.items()} == {
        "blocks.attn.q.lora_a": (3, 16, 4), "blocks.attn.q.lora_b": (3, 4, 16),
        "blocks.mlp.down.lora_a": (3, 24, 4), "blocks.mlp.down.lora_b": (3, 4, 16),
    }  # fmt: skip
    everything = lora.add(base(experts=2, experts_per_token=1, gated=True), lora.Config(2))
    assert sorted(lora.adapters(everything.graphdef)) == [f"blocks.attn.{x}" for x in ("k", "out", "q", "v")]


def test_an_adapter_begins_as_nothing_and_is_what_the_equation_says():
    spec = lora.add(base(), lora.Config(4, alpha=6.0, dropout=0.3))
    begun = jax.jit(spec.init)(jax.random.key(0))
    assert all((np.asarray(x) == 0).all() for n, x in begun.items() if n.endswith(lora.B))
    a = np.asarray(begun["blocks.mlp.down.lora_a"])
    assert 0.9 * 24**-0.5 < np.abs(a).max() <= 24**-0.5
    assert abs(a.std() * 24**0.5 - 3**-0.5) < 0.05, "uniform"
    params = arrays(spec)
    start = logits(spec, params)
    plain = {n: x for n, x in params.items() if not n.endswith((lora.A, lora.B))}
    np.testing.assert_array_equal(start, logits(base(), plain))
    params = arrays(spec, b=0.1)
    moved = logits(spec, params)
    assert np.abs(moved - start).max() > 0.1
    by_hand = {
        n: x + 6 / 4 * params[n[:-7] + lora.A] @ params[n[:-7] + lora.B] if n[:-7] + lora.A in params else x
        for n, x in plain.items()
    }
    np.testing.assert_allclose(logits(base(), by_hand), moved, atol=1e-5)
    merged = lora.merge(spec.graphdef, params)
    assert merged.keys() == plain.keys()
    for name, x in by_hand.items():
        np.testing.assert_allclose(merged[name], x, atol=1e-6)
        assert merged[name].sharding == plain[name].sharding
    assert lora.merge(base().graphdef, plain).keys() == plain.keys()
    np.testing.assert_array_equal(logits(spec, params, teacher=True), start)
    prompt = [np.asarray(TOKENS[0]).tolist()]
    new = generate(spec.graphdef, params, prompt, Sampling(0.0), max_tokens=4)
    assert new == generate(base().graphdef, merged, prompt, Sampling(0.0), max_tokens=4)
    assert lora.Config(4, 6.0, stabilised=True).scale == 3.0


def test_dropout_is_of_the_adapters_input_each_with_a_key_of_its_own():
    only = lambda *names: lora.add(base(), lora.Config(4, alpha=6.0, dropout=0.5, targets=names))
    spec = only("blocks.attn.q")
    params = arrays(spec, b=0.3)
    drawn = [logits(spec, params, jax.random.key(i)) for i in (0, 1, 0)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    zero = {n: x * 0 if n.endswith(lora.B) else x for n, x in params.items()}
    np.testing.assert_allclose(logits(spec, zero, jax.random.key(0)), logits(spec, zero), atol=1e-6)

    # Where two adapters read the same input, each drops its own; and so does each layer.
    same = only("blocks.mlp.up", "blocks.mlp.gate")
    model = bind(same.graphdef, arrays(same))
    keyed = lora._with_keys(model.body, jax.random.key(0))
    keys = np.concatenate([jax.random.key_data(m.key[...]) for m in (keyed.blocks.mlp.up, keyed.blocks.mlp.gate)])
    assert len(np.unique(keys, axis=0)) == 6
    assert model.body.blocks.mlp.up.key is None


def test_layers_outside_a_slice_stay_as_they_are():
    spec = lora.add(base(), lora.Config(2, targets=("blocks[1:].attn.v",)))
    step = jax.jit(make_train_step(spec.graphdef, resolve("cross_entropy"), optax.adamw(0.1), seed=0))
    params = jax.jit(spec.init)(jax.random.key(0))
    trained = {n: params[n] for n in spec.trained}
    state = TrainState(jnp.int32(0), trained, optax.adamw(0.1).init(trained))
    frozen = {n: params[n] for n in spec.frozen}
    for _ in range(3):
        state, _ = step(state, BATCH, frozen)
    for x in state.params.values():
        assert not np.asarray(x[0]).any()
        assert np.asarray(x[1:]).all()


def test_a_tagger_trains_its_new_head_too():
    spec = lora.add(tagger(), lora.Config(2), whole=("classifier.*",))
    assert {n for n in spec.trained if "lora" not in n} == {"classifier.bias", "classifier.kernel"}
    params = arrays(spec, b=0.3)
    assert np.abs(logits(spec, params) - logits(spec, params, teacher=True)).max() > 1e-3
    with pytest.raises(InputError, match="classifier is trained as it is: leave it out of the targets"):
        lora.add(tagger(), lora.Config(2, targets=("*",)), whole=("classifier.*",))


def test_adapters_are_sharded_as_their_kernels_are():
    spec, mesh = lora.add(base(), lora.Config(2)), "fsdp=4,tensor=2"
    at = shardings(spec.graphdef.abstract, make_mesh(mesh), spec.rules)
    assert at["blocks.attn.q.lora_a"].spec == P(None, "fsdp", None)
    assert at["blocks.attn.q.lora_b"].spec == P(None, None, ("tensor", "fsdp"))
    assert at["blocks.mlp.down.lora_a"].spec == P(None, ("tensor", "fsdp"), None)
    one, cut = (logits(spec, arrays(spec, where, b=0.1, head=0.1)) for where in ("", mesh))
    assert 0.3 < np.abs(one).max() < 1.5, "the tolerance is absolute"
    np.testing.assert_allclose(cut, one, atol=1e-5)


def test_the_base_under_the_adapter_is_a_reference_for_dpo():
    """At the start policy and reference are one: the loss is log 2, and moves only the adapters."""
    spec = lora.add(base(), lora.Config(4))
    answer = jnp.where(jnp.arange(10) < 2, -1, (jnp.arange(10) - 2) // 4)
    two = jnp.ones((2, 2))
    batch = Answers(
        dataclasses.replace(BATCH, weights_BT=jnp.broadcast_to((answer >= 0).astype(jnp.float32), (2, 10))),
        jnp.broadcast_to(answer, (2, 10)), jnp.zeros((2, 2), jnp.int32), jnp.asarray([[1, -1], [1, -1]]), two, 0 * two,
    )  # fmt: skip
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(spec.graphdef, resolve("dpo", beta=1.0), optimizer, seed=0))
    params = arrays(spec)
    trained, frozen = {n: params[n] for n in spec.trained}, {n: params[n] for n in spec.frozen}
    state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch, frozen)
        losses.append(float(value(metrics["loss"])))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses[-1] < 0.6
    assert state.params.keys() == spec.trained.keys()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0}, "an adapter of rank 0"),
        ({"rank": 2, "alpha": 0.0}, "alpha of 0.0: it must be above 0"),
        ({"rank": 2, "dropout": 1.0}, "dropout of 1.0"),
        ({"rank": 2, "targets": ("blocks.attn.x",)}, "pattern 'blocks.attn.x' matches no parameter"),
    ],
)
def test_refused(config, message):
    with pytest.raises(InputError, match=message):
        lora.add(base(), lora.Config(**config))
