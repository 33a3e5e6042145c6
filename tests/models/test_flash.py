"""The kernels for GPUs, interpreted, against attention by XLA; and compiled for GPUs that are not here."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.models import flash
from jaxllm.models.attention import Tokens, attention, visible
from jaxllm.models.flash import Blocks, block_lists, flash_attention
from jaxllm.models.flash_kernels import Rule, keep
from jaxllm.models.layers import soft_cap

LENGTH = 200  # no multiple of a block, and longer than several


def packed(rows, length=LENGTH, branches=None):
    segments, positions = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
    for row, lengths in enumerate(rows):
        ends = np.cumsum(lengths)
        for i, (size, end) in enumerate(zip(lengths, ends, strict=True)):
            segments[row, end - size : end], positions[row, end - size : end] = i + 1, np.arange(size)
    return Tokens(jnp.asarray(segments), jnp.asarray(positions), branches)


DOCUMENTS = packed([(LENGTH,), (70, 3, 90, 20)])


def shared():
    """A row of one document, and one of a prompt of 80 tokens with answers of 50 and 40."""
    tokens, branches = packed([(LENGTH,), (170,)]), np.zeros((2, LENGTH), np.int32)
    branches[1, 80:130], branches[1, 130:170] = 1, 2
    positions = np.asarray(tokens.positions_BT).copy()
    positions[1, 130:170] = np.arange(80, 120)
    return Tokens(tokens.segments_BT, jnp.asarray(positions), jnp.asarray(branches))


CASES = {
    "causal": (DOCUMENTS, {"causal": True}),
    "branches": (shared(), {"causal": True}),
    "encoder with a window": (DOCUMENTS, {"causal": False, "window": 20}),
    "Gemma": (DOCUMENTS, {"causal": True, "window": 50, "softcap": 2.0, "scale": 0.3}),
}  # fmt: skip


def draw(B=2, T=LENGTH, S=LENGTH, N=4, K=2, H=24, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def arguments(how):
    whole = {"window": None, "softcap": 0.0, "scale": 24**-0.5, "dropout_rate": 0.0, "dropout_key": None, **how}
    return whole | {"window": None if whole["window"] is None else jnp.int32(whole["window"])}


def gradients(run, q, k, v, out, tokens):
    def value(q, k, v):
        y = jnp.where(tokens.segments_BT[..., None, None] > 0, run(q, k, v), 0)
        return jnp.sum(y * out), y

    return jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))(q, k, v)


def check(ours, theirs, tokens, arrays, atol=2e-5):
    (_, found), found_gradients = gradients(ours, *arrays, tokens)
    (_, expected), expected_gradients = gradients(theirs, *arrays, tokens)
    np.testing.assert_allclose(found, expected, atol=atol)
    for name, mine, other in zip("qkv", found_gradients, expected_gradients, strict=True):
        size = float(jnp.abs(other).max())
        assert size > 0.1
        np.testing.assert_allclose(mine, other, atol=atol * max(size, 1), err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_equals_attention_by_xla(case):
    tokens, how = CASES[case]
    how = arguments(how)
    check(
        lambda q, k, v: flash_attention(q, k, v, tokens, tokens, **how),
        lambda q, k, v: attention(q, k, v, tokens, tokens, **how),
        tokens, draw(),
    )  # fmt: skip


def test_rows_whose_log_normaliser_is_far_below_zero():
    """Below -88 its exponential is 0 in float32; 200 tokens leave 72 of 128, and 1,088 would leave 64."""
    tokens, how = packed([(192,), (192,)], 192), arguments({"causal": True})
    q, k, v, out = draw(T=192, S=192)
    q, k = q.at[..., 0].set(30.0), k.at[..., 0].set(-25.0)
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, jnp.repeat(k, 2, axis=2)) * how["scale"]
    assert float(jax.nn.logsumexp(scores, axis=-1).max()) < -100
    check(
        lambda q, k, v: flash_attention(q, k, v, tokens, tokens, **how),
        lambda q, k, v: attention(q, k, v, tokens, tokens, **how),
        tokens, (q, k, v, out), atol=1e-4,
    )  # fmt: skip


def test_padding_gives_and_gets_nothing():
    tokens, how = CASES["causal"][0], arguments({"causal": True})
    q, k, v, out = draw()
    y, pull = jax.vjp(lambda q, k, v: flash_attention(q, k, v, tokens, tokens, **how), q, k, v)
    padding = np.asarray(tokens.segments_BT) == 0
    assert padding.any()
    assert (np.asarray(y)[padding] == 0).all()
    assert all((np.asarray(x)[padding] == 0).all() for x in pull(out))


def test_dropout_drops_what_its_hash_says_in_both_passes():
    tokens, rate, key = DOCUMENTS, 0.3, jax.random.key(3)
    how = arguments({"causal": True, "softcap": 3.0}) | {"dropout_rate": rate, "dropout_key": key}
    seeds = tuple(jax.random.bits(key, (2,), jnp.uint32))

    def by_hand(q, k, v):
        (B, T, N, _), G = q.shape, q.shape[2] // k.shape[2]
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, jnp.repeat(k, G, axis=2)) * how["scale"]
        seen = visible(tokens, tokens, causal=True)[:, None]
        probs = jax.nn.softmax(jnp.where(seen, soft_cap(scores, 3.0), -1e30), axis=-1)
        heads, numbers = jnp.arange(B * N), jnp.arange(T)
        factor = jax.vmap(lambda head: keep(rate, seeds, head, numbers, numbers))(heads).reshape(B, N, T, T)
        return jnp.einsum("BNTS,BSNH->BTNH", probs * factor, jnp.repeat(v, G, axis=2))

    check(lambda q, k, v: flash_attention(q, k, v, tokens, tokens, **how), by_hand, tokens, draw())


def test_the_hash_drops_the_share_that_it_should_and_independently():
    seeds = jnp.uint32(1), jnp.uint32(2)
    numbers = jnp.arange(1024)
    masks = np.stack([np.asarray(keep(0.1, seeds, jnp.int32(head), numbers, numbers)) > 0 for head in (0, 1)])
    n = masks[0].size
    assert abs(masks.mean() - 0.9) < 4 * (0.09 / masks.size) ** 0.5
    pairs = {
        "heads": (masks[0], masks[1]), "rows": (masks[0, 1:], masks[0, :-1]),
        "columns": (masks[0, :, 1:], masks[0, :, :-1]), "across": (masks[0], masks[0].T),
        "squares": (masks[0, 1:, 1:] ^ masks[0, 1:, :-1], masks[0, :-1, 1:] ^ masks[0, :-1, :-1]),
    }  # fmt: skip
    for name, (a, b) in pairs.items():
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / n**0.5, name
    turned = keep(0.1, seeds, jnp.int32(0), numbers, numbers, True)
    assert (np.asarray(turned > 0) == masks[0].T).all()


def test_queries_that_are_not_the_keys():
    """As a prompt is read into a cache with room for more."""
    how = arguments({"causal": True})
    key = packed([(150,), (150,)])
    query = Tokens(key.segments_BT[:, 80:150], key.positions_BT[:, 80:150])
    check(
        lambda q, k, v: flash_attention(q, k, v, query, key, **how),
        lambda q, k, v: attention(q, k, v, query, key, **how),
        query, draw(T=70),
    )  # fmt: skip


@pytest.mark.slow
def test_sixteen_bits_are_as_exact_as_by_xla():
    tokens, how = DOCUMENTS, arguments({"causal": True})
    arrays = draw(H=16, dtype=jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in arrays]
    far = []
    for run in (flash_attention, attention):
        at = functools.partial(run, query=tokens, key=tokens, **how)
        (_, y), found = gradients(at, *arrays, tokens)
        (_, expected), wanted = gradients(functools.partial(attention, query=tokens, key=tokens, **how), *exact, tokens)
        far.append(
            [
                float(jnp.abs(a.astype(jnp.float32) - b).max())
                for a, b in zip((y, *found), (expected, *wanted), strict=True)
            ]
        )
    assert all(ours < 1.5 * theirs + 1e-3 for ours, theirs in zip(*far, strict=True)), far


@pytest.mark.slow
def test_cut_along_a_mesh():
    tokens, how = CASES["Gemma"]
    how = arguments(how)
    tokens = jax.tree.map(lambda x: jnp.concatenate([x, x]), tokens)
    run = lambda q, k, v: attention(q, k, v, tokens, tokens, windows=(50,), backend="flash", **how)
    arrays = draw(B=4)
    (_, expected), expected_gradients = gradients(
        lambda q, k, v: attention(q, k, v, tokens, tokens, **how), *arrays, tokens
    )
    with jax.set_mesh(make_mesh("fsdp=2,tensor=2,expert=2")):
        (_, found), found_gradients = gradients(run, *arrays, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for mine, other in zip(found_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_listed_that_see_something_and_left_out_where_they_cannot(case):
    tokens, how = CASES[case]
    size, length = Blocks(16, 8, 4, 2), 208
    rule = Rule(how["causal"], "window" in how, tokens.branches_BT is not None, 1.0, 0.0, 0.0)
    window = jnp.int32(how.get("window", 0))
    padded = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, length - LENGTH))), tokens)
    info = flash._info(tokens, length, rule.branched)
    seen = np.asarray(visible(padded, padded, causal=rule.causal, window=window if rule.windowed else None))
    pairs = seen.reshape(2, length // 16, 16, length // 8, 8)
    some, whole = pairs.any((2, 4)), pairs.all((2, 4))
    listed = 0
    for turned in (False, True):
        order, counts = map(np.asarray, block_lists(rule, info, info, window, size, turned))
        any_, all_ = (x.swapaxes(1, 2) if turned else x for x in (some, whole))
        for b, i in np.ndindex(*counts.shape[:2]):
            masked, every = counts[b, i]
            blocks = set(order[b, i, :every].tolist())
            assert set(np.flatnonzero(any_[b, i])) <= blocks
            assert all(all_[b, i, j] for j in order[b, i, masked:every])
            listed += every
    assert listed / 2 <= 1.5 * some.sum(), (
        "for nothing only where documents meet, which is in most of blocks this small"
    )


def needs_cuda():
    try:
        return importlib.util.find_spec("jax_plugins.xla_cuda12") is None
    except ModuleNotFoundError:
        return True


GPU = [pytest.mark.gpu_compile, pytest.mark.skipif(needs_cuda(), reason="pip install -e '.[plan]'")]
EVERYTHING = {"window": jnp.int32(100), "softcap": 30.0, "dropout_rate": 0.1, "dropout_key": jax.random.key(0)}


@pytest.mark.parametrize("topology", [pytest.param(f"{chip}:1x1x1", marks=GPU) for chip in ("a100", "h100", "b200")])
@pytest.mark.parametrize(
    ("T", "H", "dtype", "more"),
    [(8192, 128, "bfloat16", {}), (2048, 128, "bfloat16", EVERYTHING), (2048, 256, "bfloat16", EVERYTHING),
     (2048, 128, "float32", EVERYTHING), (2048, 64, "bfloat16", EVERYTHING)],
    ids=["long", "128", "256", "float32", "64"],
)  # fmt: skip
def test_compiles_and_keeps_no_scores(topology, T, H, dtype, more):
    from compiled import options_of, planning_for, target

    found, devices = target(topology)
    at = jax.sharding.SingleDeviceSharding(devices[0])
    like = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=at)
    how = arguments({"causal": True}) | more

    def loss(q, k, v, segments, positions):
        tokens = Tokens(segments, positions, segments)
        return flash_attention(q, k, v, tokens, tokens, **how).astype(jnp.float32).sum()

    row = like(1, T, dtype="int32")
    shapes = like(1, T, 8, H), like(1, T, 2, H), like(1, T, 2, H), row, row
    with planning_for(found, devices[:1]):
        made = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes).compile(options_of(found))
    text = made.as_text()
    assert all(f"flash_attention_{kernel}" in text for kernel in ("forward", "backward_dq", "backward_dkv"))
    assert not re.search(rf"\[(?:\d+,)*{T},{T}\]", text)
    queries = T * 8 * H * jnp.dtype(dtype).itemsize
    assert made.memory_analysis().temp_size_in_bytes < 2 * queries, "the result, what is summed of it, and the lists"
