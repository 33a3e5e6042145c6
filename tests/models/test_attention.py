"""Attention against numpy, and its backends against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.models.attention import Tokens, attention, visible


def tokens(length, parts, branches=None):
    """Rows of segments of these lengths, 0 for padding: (number, length), ... per row."""
    segments, positions = np.zeros((len(parts), length), np.int32), np.zeros((len(parts), length), np.int32)
    for row, pieces in enumerate(parts):
        at = 0
        for number, size in pieces:
            segments[row, at : at + size], positions[row, at : at + size] = number, np.arange(size)
            at += size
    return Tokens(jnp.asarray(segments), jnp.asarray(positions), branches)


def draw(B, T, N, K, H, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, T, n, H)), dtype) for n in (N, K, K)]


def by_hand(q, k, v, where, causal, window, scale, cap):
    """One query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    segments, positions = np.asarray(where.segments_BT), np.asarray(where.positions_BT)
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(*q.shape[:3]):
        seen = [
            s
            for s in range(q.shape[1])
            if segments[b, s] == segments[b, t] != 0
            and (not causal or positions[b, s] <= positions[b, t])
            and (window is None or abs(positions[b, s] - positions[b, t]) <= window)
        ]
        if seen:
            head = n // (q.shape[2] // k.shape[2])
            scores = k[b, seen, head] @ q[b, t, n] * scale
            scores = cap * np.tanh(scores / cap) if cap else scores
            odds = np.exp(scores - scores.max())
            out[b, t, n] = odds / odds.sum() @ v[b, seen, head]
    return out


@pytest.mark.parametrize(
    ("causal", "window", "scale", "cap"), [(True, None, None, 0.0), (False, 3, 0.3, 0.0), (True, 2, 1.0, 1.5)]
)
def test_equals_numpy(causal, window, scale, cap):
    q, k, v = draw(2, 13, 6, 3, 5)
    where = tokens(13, [[(2, 5), (1, 6)], [(0, 4), (3, 9)]])
    y = attention(
        q,
        k,
        v,
        where,
        where,
        causal=causal,
        window=None if window is None else jnp.int32(window),
        scale=scale,
        softcap=cap,
    )
    assert jnp.isfinite(y).all()
    real = np.asarray(where.segments_BT) > 0
    expected = by_hand(q, k, v, where, causal, window, 5**-0.5 if scale is None else scale, cap)
    np.testing.assert_allclose(np.asarray(y)[real], expected[real], atol=2e-6)


def test_branches_see_the_trunk_and_themselves():
    where = tokens(7, [[(1, 7)]], branches=jnp.asarray([[0, 0, 1, 1, 2, 2, 2]]))
    seen = visible(where, where, causal=True)[0].astype(int)
    assert seen.tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 1],
    ]


def test_dropout_keeps_the_mean():
    q, k, v = draw(1, 8, 2, 2, 4)
    where = tokens(8, [[(1, 8)]])
    run = jax.jit(
        jax.vmap(lambda key: attention(q, k, v, where, where, causal=True, dropout_rate=0.3, dropout_key=key))
    )
    many = run(jax.random.split(jax.random.key(0), 4000))
    plain = attention(q, k, v, where, where, causal=True)
    error = jnp.abs(many.mean(0) - plain) / (many.std(0) / 4000**0.5 + 1e-6)
    assert many.std() > 0.1
    assert error.max() < 5


SPLASH_CASES = [(True, None), (True, 40), (False, None), (False, 40)]


@pytest.mark.parametrize(("window", "cap"), [(None, 0.0), (40, 1.5)])
def test_parts_of_a_long_causal_row_equal_the_whole(window, cap):
    """Keys that are other arrays with the same tokens are not known to be in the queries' order, and come whole."""
    q, k, v = draw(2, 128, 6, 3, 8)
    branches = jnp.asarray(np.repeat([[0, 1, 2, 0]], 32, axis=1).repeat(2, axis=0).astype(np.int32))
    where = tokens(128, [[(1, 96), (2, 30)], [(1, 128)]], branches)
    real_BT = where.segments_BT > 0

    def summed(q, k, v, key):
        y = attention(q, k, v, where, key, causal=True, window=window and jnp.int32(window), softcap=cap)
        return jnp.sum(jnp.sin(y) * real_BT[..., None, None]), jnp.where(real_BT[..., None, None], y, 0)

    both = [jax.value_and_grad(lambda *x: summed(*x, key), (0, 1, 2), has_aux=True)(q, k, v)  # noqa: B023
            for key in (where, jax.tree.map(jnp.copy, where))]  # fmt: skip
    for ours, whole in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def splash_and_xla(causal, window, length=256):
    q, k, v = draw(2, length, 4, 2, 64)
    where = tokens(length, [[(1, 100), (2, 90)], [(0, 30), (1, length - 30)]])
    real = (where.segments_BT > 0)[..., None, None]

    def run(backend):
        def loss(q, k, v):
            y = attention(
                q, k, v, where, where, causal=causal, window=None if window is None else jnp.int32(window),
                windows=(2**30, 40), softcap=20.0, backend=backend,
            )  # fmt: skip
            return jnp.sum(jnp.where(real, y, 0) ** 2), y

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    return real, run("splash"), run("xla")


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "window", "length"), [*((*case, 256) for case in SPLASH_CASES), (True, 40, 200)])
def test_splash_interpreted_equals_xla(causal, window, length):
    real, (gradients, y), (expected_gradients, expected) = splash_and_xla(causal, window, length)
    np.testing.assert_allclose(jnp.where(real, y, 0), jnp.where(real, expected, 0), atol=2e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_splash_cut_along_a_mesh_equals_xla():
    with jax.set_mesh(make_mesh("fsdp=2,tensor=2,expert=2")):
        real, (gradients, y), (expected_gradients, expected) = splash_and_xla(True, 40)
    np.testing.assert_allclose(jnp.where(real, y, 0), jnp.where(real, expected, 0), atol=2e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def lowered_for_tpu(T=256, rate=0.0, windows=(), branches=None, **how):
    q, k, v = draw(2, T, 4, 2, 64)
    where = tokens(T, [[(1, T)], [(1, T)]], branches)

    def loss(q, k, v, key):
        return attention(
            q,
            k,
            v,
            where,
            where,
            causal=True,
            dropout_rate=rate,
            dropout_key=key,
            windows=windows,
            backend="splash",
            **how,
        ).sum()

    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    return step.trace(q, k, v, jax.random.key(0)).lower(lowering_platforms=("tpu",)).as_text()


def test_splash_lowers_for_tpu():
    assert "tpu_custom_call" in lowered_for_tpu()
    assert "tpu_custom_call" in lowered_for_tpu(T=200)
    assert "tpu_custom_call" in lowered_for_tpu(windows=(5, 40), window=jnp.int32(5))


@pytest.mark.parametrize(
    "how",
    [{"T": 100}, {"rate": 0.1}, {"branches": jnp.zeros((2, 256), jnp.int32)}, {"window": jnp.int32(5)}],
    ids=["length", "dropout", "branches", "unlisted window"],
)
def test_what_splash_cannot_do_is_done_by_xla(how):
    assert "tpu_custom_call" not in lowered_for_tpu(**how)


def test_cudnn_gives_way_to_xla_where_it_must():
    """In float32, and with a soft cap, cudnn is not asked; where it is, a machine without it says so."""
    where = tokens(8, [[(1, 8)]])
    q, k, v = draw(1, 8, 2, 2, 8)
    plain = attention(q, k, v, where, where, causal=True)
    assert (attention(q, k, v, where, where, causal=True, backend="cudnn") == plain).all()
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    capped = attention(*half, where, where, causal=True, softcap=2.0)
    assert (attention(*half, where, where, causal=True, softcap=2.0, backend="cudnn") == capped).all()
    with pytest.raises(RuntimeError, match="cuDNN"):
        attention(*half, where, where, causal=True, backend="cudnn")


def test_auto_is_xla_on_a_cpu():
    q, k, v = draw(1, 128, 2, 2, 8)
    where = tokens(128, [[(1, 128)]])
    both = [attention(q, k, v, where, where, causal=True, backend=backend) for backend in ("auto", "xla")]
    assert (both[0] == both[1]).all()
