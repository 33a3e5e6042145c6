"""Disentangled attention: rows of the table as `transformers` has them, aligned scores, and packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.attention import Tokens, attention
from jaxllm.models.disentangled import align, disentangled_attention, table_rows


@pytest.mark.parametrize(("buckets", "reach"), [(256, 512), (32, 128), (256, 131), (7, 33), (2, 10), (0, 16)])
def test_rows_of_the_table_are_those_of_transformers(buckets, reach):
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    span, length = buckets or reach, 1200
    query = torch.zeros(1, length, 1)
    relative = build_relative_position(query, query, buckets or -1, reach)[0]
    wanted = torch.clamp(relative + span, 0, 2 * span - 1).numpy()
    places = np.arange(length)
    np.testing.assert_array_equal(table_rows(places[:, None] - places[None], buckets, reach), wanted)


@pytest.mark.parametrize("T", [1, 2, 7])
def test_align_takes_each_distance_to_its_key(T):
    x = np.random.default_rng(0).normal(size=(2, 3, T, 2 * T - 1)).astype(np.float32)
    columns = T - 1 + np.arange(T)[None] - np.arange(T)[:, None]
    wanted = np.take_along_axis(x, np.broadcast_to(columns, (2, 3, T, T)), axis=-1)
    np.testing.assert_array_equal(align(jnp.asarray(x)), wanted)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


T, N, H, REACH = 12, 2, 4, 6
Q, K, V = (draw(i, 1, T, N, H) for i in range(3))
POS_Q, POS_K = (draw(i, 2 * REACH, N, H) for i in (3, 4))


def attend(q, k, v, segments, positions, pos_q=POS_Q, pos_k=POS_K):
    tokens = Tokens(jnp.asarray([segments]), jnp.asarray([positions]))
    return disentangled_attention(q, k, v, pos_q, pos_k, tokens, buckets=0, reach=REACH)


def test_scores_are_those_of_the_papers_equation():
    """He et al. 2020, equation 4, score by score."""
    y = attend(Q, K, V, [1] * T, list(range(T)))
    wanted = np.zeros((T, N, H), np.float32)
    for n in range(N):
        scores = np.zeros((T, T))
        for i in range(T):
            for j in range(T):
                row = min(max(i - j + REACH, 0), 2 * REACH - 1)
                content = Q[0, i, n] @ K[0, j, n]
                scores[i, j] = content + Q[0, i, n] @ POS_K[row, n] + K[0, j, n] @ POS_Q[row, n]
        probs = np.exp(scores / np.sqrt(3 * H))
        wanted[:, n] = probs / probs.sum(axis=1, keepdims=True) @ V[0, :, n]
    np.testing.assert_allclose(y[0], wanted, atol=2e-6)


def test_packed_and_padded_rows_are_single_rows():
    segments, positions = [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0], [0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0]
    y = attend(Q, K, V, segments, positions)
    for cut in (slice(1, 5), slice(5, 10)):
        length = cut.stop - cut.start
        alone = attend(Q[:, cut], K[:, cut], V[:, cut], [1] * length, list(range(length)))
        np.testing.assert_allclose(y[:, cut], alone, atol=5e-7)
    assert np.isfinite(y).all(), "of padding too"


def test_without_positions_it_is_plain_attention():
    segments, positions = [1] * 7 + [2] * 5, [*range(7), *range(5)]
    tokens = Tokens(jnp.asarray([segments]), jnp.asarray([positions]))
    plain = attention(Q, K, V, tokens, tokens, causal=False)
    np.testing.assert_allclose(attend(Q, K, V, segments, positions, None, None), plain, atol=5e-7)


def test_a_term_left_out_scales_by_the_rest():
    zero = jnp.zeros_like(POS_Q)
    both = attend(Q * (3 / 2) ** 0.5, K, V, [1] * T, list(range(T)), zero, POS_K)
    np.testing.assert_allclose(attend(Q, K, V, [1] * T, list(range(T)), None, POS_K), both, atol=1e-6)


def test_nothing_is_gathered_or_scattered_by_score():
    """The table's rows alone are taken by index, and their gradient added up: never an array of T x T scores."""

    def loss(q, k, pos_q, pos_k):
        return jnp.sum(attend(q, k, V, [1] * T, list(range(T)), pos_q, pos_k))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3)))(Q, K, POS_Q, POS_K)
    by_index = [e for e in jaxpr.jaxpr.eqns if e.primitive.name in ("gather", "scatter-add")]
    assert {e.primitive.name for e in by_index} == {"gather", "scatter-add"}
    assert all(x.aval.shape[1:] == (N, H) for e in by_index for x in e.outvars)
