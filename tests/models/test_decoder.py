"""Properties of decoders that hold whatever the family; numbers against `transformers` are in tests/hf."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxllm.distributed.mesh import make_mesh, put_batch, shardings, specs_of
from jaxllm.models.attention import Tokens
from jaxllm.models.cache import Cache
from jaxllm.models.decoder import PRESETS, SHARDING, Config, Decoder
from jaxllm.params import bind, describe, split
from jaxllm.types import Batch, value

SMALL = Config(vocab_size=64, width=24, depth=2, heads=4, mlp_width=40, kv_heads=2, max_positions=64, unroll=1)
GEMMA = dataclasses.replace(
    SMALL, windows=(4, 0), local_rope_base=100.0, norm_offset=1.0, norm_place="both", qk_norm="head", tied=True,
    attention_softcap=5.0, logit_softcap=7.0, embedding_scale=4.9,
)  # fmt: skip
GPT2 = dataclasses.replace(
    SMALL, rope_base=0.0, norm="layer", gated=False, activation="gelu_tanh", kv_heads=0, qkv_bias=True, out_bias=True,
    mlp_bias=True, embedding_dropout=0.2, attention_dropout=0.2, output_dropout=0.2,
)  # fmt: skip
MIXTURE = dataclasses.replace(SMALL, experts=4, qk_norm="full", norm_place="after")
CONFIGS = {"llama": SMALL, "gemma": GEMMA, "gpt2": GPT2, "mixture": MIXTURE}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
close = {"rtol": 0, "atol": 2e-5}


def build(config):
    """A description and parameters, drawn by numpy because compiling an initialisation takes seconds."""
    graphdef = describe(lambda rngs: Decoder(config, rngs), SHARDING).graphdef
    draw = np.random.default_rng(0)
    offsets = {name: name.endswith("scale") * (1 - config.norm_offset) for name in graphdef.abstract}
    shapes = graphdef.abstract.items()
    return graphdef, {n: jnp.asarray(0.2 * draw.normal(size=x.shape) + offsets[n], x.dtype) for n, x in shapes}


def make_batch(tokens, segments=None, positions=None, branches=None):
    tokens = np.asarray(tokens, np.int32)
    positions = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)) if positions is None else np.asarray(positions)
    segments = np.ones_like(tokens) if segments is None else np.asarray(segments, np.int32)
    weights = (segments > 0).astype(np.float32)
    return Batch(tokens, np.roll(tokens, -1, 1), weights, segments, positions.astype(np.int32), branches)


def draw(rows, length):
    return np.random.default_rng(0).integers(0, 64, (rows, length))


def logits_of(graphdef, params, batch, key=None):
    model = bind(graphdef, params)
    return model.head(model.hidden(batch, key)[0])


def loss_of(graphdef, params, batch):
    model = bind(graphdef, params)
    hidden_BTD, aux = model.hidden(batch)
    nats = -jnp.take_along_axis(jax.nn.log_softmax(model.head(hidden_BTD)), batch.targets_BT[..., None], -1)[..., 0]
    return jnp.sum(nats * batch.weights_BT) / jnp.sum(batch.weights_BT) + value(aux.get("router_balance", ()))


@each
def test_sees_its_past_and_nothing_else(config):
    graphdef, params = build(dataclasses.replace(config, tied=False, depth=2, windows=(0, 0)))
    tokens = np.arange(16)[None]

    @jax.jit
    @jax.grad
    def reach(table):
        return jnp.sum(logits_of(graphdef, params | {"embeddings.tokens.embedding": table}, make_batch(tokens))[0, 9])

    touched = np.any(np.asarray(reach(params["embeddings.tokens.embedding"])) != 0, axis=1)
    assert touched[:10].all()
    assert not touched[10:].any()


def test_a_window_counts_the_token_itself():
    graphdef, params = build(dataclasses.replace(SMALL, depth=1, windows=(4,)))

    @jax.jit
    @jax.grad
    def reach(table):
        return jnp.sum(
            logits_of(graphdef, params | {"embeddings.tokens.embedding": table}, make_batch(np.arange(16)[None]))[0, 9]
        )

    touched = np.any(np.asarray(reach(params["embeddings.tokens.embedding"])) != 0, axis=1)
    assert np.flatnonzero(touched).tolist() == [6, 7, 8, 9]


@each
def test_padding_and_packing_change_nothing(config):
    graphdef, params = build(config)
    run = jax.jit(lambda batch: logits_of(graphdef, params, batch))
    a, b = draw(2, 12)
    b = b[:9]
    alone = run(make_batch(np.stack([np.pad(a, (0, 12)), np.pad(b, (0, 15))])))
    segments, positions, tokens = np.zeros((2, 24), int), np.zeros((2, 24), int), np.full((2, 24), 63)
    for row, at, number, text in ((0, 2, 1, a), (0, 14, 2, b), (1, 15, 7, b)):
        here = (row, slice(at, at + len(text)))
        tokens[here], segments[here], positions[here] = text, number, np.arange(len(text))
    together = np.asarray(run(make_batch(tokens, segments, positions)))
    alone = np.asarray(alone)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[0, 2:14], alone[0, :12], **close)
    np.testing.assert_allclose(together[0, 14:23], alone[1, :9], **close)
    np.testing.assert_allclose(together[1, 15:], alone[1, :9], **close)


def test_branches_share_a_prompt():
    graphdef, params = build(SMALL)
    run = jax.jit(lambda batch: logits_of(graphdef, params, batch))
    prompt, first, second = draw(3, 6)
    ends = [np.concatenate([prompt[-1:], x]) for x in (first, second)]
    tokens = np.concatenate([prompt[:-1], *ends])[None]
    branches = jnp.asarray(np.repeat([0, 1, 2], [5, 7, 7])[None])
    positions = jnp.asarray(np.concatenate([np.arange(5), *[np.arange(5, 12)] * 2])[None])
    shared = run(make_batch(tokens, None, positions, branches))[0]
    apart = run(make_batch(np.stack([np.concatenate([prompt, x]) for x in (first, second)])))
    np.testing.assert_allclose(shared[5:12], apart[0, 5:], **close)
    np.testing.assert_allclose(shared[12:], apart[1, 5:], **close)


@each
def test_a_cache_continues_as_if_read_at_once(config):
    graphdef, params = build(config)
    tokens = draw(2, 12)
    segments = np.ones((2, 12), int)
    segments[1, :3] = 0  # the second row begins later
    positions = np.maximum(np.arange(12)[None] - np.array([[0], [3]]), 0)
    model = bind(graphdef, params)

    @jax.jit
    def in_pieces():
        cache, pieces = Cache.empty(config, 2, 20), []
        for start, stop in ((0, 5), (5, 6), (6, 12)):
            part = Tokens(jnp.asarray(segments[:, start:stop]), jnp.asarray(positions[:, start:stop]))
            hidden, cache = model.extend(cache, jnp.asarray(tokens[:, start:stop]), part)
            pieces.append(hidden)
        return jnp.concatenate(pieces, axis=1), cache.length

    hidden, length = in_pieces()
    whole, _ = jax.jit(model.hidden)(make_batch(tokens, segments, positions))
    hidden, whole = np.asarray(hidden), np.asarray(whole)
    assert length == 12
    np.testing.assert_allclose(hidden[segments > 0], whole[segments > 0], **close)


@pytest.mark.parametrize("config", [GEMMA, MIXTURE], ids=["gemma", "mixture"])
def test_how_it_is_computed_changes_nothing(config):
    batch = make_batch(draw(2, 8))

    def gradients(**how):
        graphdef, params = build(dataclasses.replace(config, **how))
        return jax.jit(jax.grad(lambda params: loss_of(graphdef, params, batch)))(params)

    plain = gradients(unroll=0)
    for how in ({"remat": "full"}, {"unroll": 0, "remat": "dots"}):
        for name, x in gradients(**how).items():
            np.testing.assert_allclose(x, plain[name], **close, err_msg=f"{name} {how}")


@each
def test_bfloat16_is_near(config):
    graphdef, params = build(config)
    half, _ = build(dataclasses.replace(config, dtype="bfloat16"))
    batch = make_batch(draw(2, 8))
    exact, rounded = (jax.jit(lambda p, g=g: logits_of(g, p, batch))(params) for g in (graphdef, half))
    assert rounded.dtype == jnp.float32
    assert jax.eval_shape(lambda p: bind(half, p).hidden(batch)[0], params).dtype == jnp.bfloat16
    # A mixture may send a token elsewhere: most are near.
    exact, rounded = np.asarray(exact), np.asarray(rounded)
    assert np.median(np.abs(exact - rounded)) < 0.03 * np.std(exact)


def test_dropout_follows_the_key():
    graphdef, params = build(GPT2)
    forward = jax.jit(lambda key: logits_of(graphdef, params, make_batch(draw(1, 8)), key))
    run = lambda key: np.asarray(forward(key))
    one, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    assert (one == again).all()
    assert not np.allclose(one, other)
    assert not np.allclose(one, run(None))


def test_a_mixture_is_its_chosen_experts():
    config = dataclasses.replace(SMALL, depth=1, experts=5, experts_per_token=2, renormalise=False)
    graphdef, params = build(config)
    x = np.random.default_rng(3).normal(size=(2, 7, 24))
    real = np.arange(7) < np.array([[7], [4]])

    @jax.jit
    def run(params, x, real):
        block = jax.tree.map(lambda x: x[0], bind(graphdef, params).blocks)
        return block.experts(x, real)

    y, (sent, probs) = run(params, x.astype(np.float32), real)

    weights = {
        name: np.asarray(params[f"blocks.experts.{name}.kernel"][0], np.float64) for name in ("gate", "up", "down")
    }
    scores = x @ np.asarray(params["blocks.experts.router.kernel"][0], np.float64)
    odds = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    chosen = np.argsort(-odds, axis=-1)[..., :2]
    expected = np.zeros_like(x)
    for row, at in np.ndindex(2, 7):
        for e in chosen[row, at]:
            gate = x[row, at] @ weights["gate"][e]
            inner = gate / (1 + np.exp(-gate)) * (x[row, at] @ weights["up"][e])
            expected[row, at] += odds[row, at, e] * (inner @ weights["down"][e])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert sent.tolist() == np.bincount(chosen[real].reshape(-1), minlength=5).tolist()
    np.testing.assert_allclose(probs, odds[real].sum(0), rtol=1e-5)


def test_balance_is_least_when_even():
    """An even router scores k; one that sends every token the same way nearly E; padding counts for nothing."""
    graphdef, params = build(dataclasses.replace(MIXTURE, depth=1))
    # Every token has 9 in its first feature, and the router looks at nothing else.
    table = np.array(params["embeddings.tokens.embedding"])
    table[:, 0] = 9.0
    batch = make_batch(draw(1, 8), np.arange(8)[None] < 6)

    @jax.jit
    def balance(weight):
        router = jnp.zeros((1, 24, 4)).at[0, 0, 2].set(weight)
        own = {"embeddings.tokens.embedding": table, "blocks.experts.router.kernel": router}
        ((coefficient, mean),) = bind(graphdef, params | own).hidden(batch)[1]["router_balance"]
        return coefficient, mean

    coefficient, even = balance(0.0)
    assert coefficient == pytest.approx(MIXTURE.router_balance)
    assert even.count == 6
    assert even.value() == pytest.approx(2.0)
    assert 3.5 < balance(1.0)[1].value() < 4.0


@pytest.mark.parametrize("config", [GEMMA, MIXTURE], ids=["gemma", "mixture"])
def test_sharded_is_the_same(config):
    graphdef, params = build(config)
    batch = make_batch(draw(4, 8))
    expected = jax.jit(jax.grad(lambda params: loss_of(graphdef, params, batch)))(params)
    mesh = make_mesh("fsdp=2,tensor=2,expert=2")
    placed = jax.device_put(params, shardings(params, mesh, SHARDING))
    if config.experts:
        kernel = placed["blocks.experts.up.kernel"]
        assert kernel.addressable_shards[0].data.shape == (2, 2, 12, 20)
    rows = put_batch(jax.tree.map(np.asarray, batch), mesh, 4)
    gradients = jax.jit(jax.grad(lambda params, rows: loss_of(graphdef, params, rows)))(placed, rows)
    for name, x in expected.items():
        np.testing.assert_allclose(gradients[name], x, **close, err_msg=name)


def test_splash_stands_in_a_rematerialised_stack_for_tpu():
    config = dataclasses.replace(GEMMA, backend="splash", remat="full", unroll=1)
    graphdef, params = build(config)
    batch = make_batch(draw(2, 128))
    step = jax.jit(jax.grad(lambda params: loss_of(graphdef, params, batch)))
    text = step.trace(params).lower(lowering_platforms=("tpu",)).as_text()
    # For each of the two windows: forward, forward again, and two kernels of the gradient.
    assert text.count("tpu_custom_call") >= 8


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    names = {
        name
        for config in (*CONFIGS.values(), *PRESETS.values())
        for name in describe(lambda rngs, config=config: Decoder(config, rngs), SHARDING).graphdef.abstract
    }
    for name in names:
        specs_of(name, SHARDING)
    for regex, _ in SHARDING:
        assert any(re.fullmatch(regex, name) for name in names), regex


def test_layers_start_apart_and_small_where_they_add_up():
    _, params = split(jax.jit(lambda: Decoder(dataclasses.replace(SMALL, depth=8), nnx.Rngs(0)))())
    q, out = np.asarray(params["blocks.attn.q.kernel"]), np.asarray(params["blocks.attn.out.kernel"])
    assert not np.allclose(q[0], q[1])
    assert np.std(q) == pytest.approx(0.02, rel=0.05)
    assert np.std(out) == pytest.approx(0.02 / 4, rel=0.05)
