"""DeBERTa's disentangled attention (He et al. 2020): scores of content with content, and with relative positions.

    score(i, j) = (q_i . k_j + q_i . pos_k[d] + pos_q[d] . k_j) / sqrt(3 H),    d = row(i - j)

Distances are those of columns. In packed rows a query sees the keys of its own segment alone, whose columns are
contiguous, so they are the distances in the text, and a text has the same scores in every row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxllm.axes import AXES, cuts
from jaxllm.models.layers import dropout, softmax
from jaxllm.models.visibility import Tokens, visible


def disentangled_attention(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    pos_q_RNH: jax.Array | None,
    pos_k_RNH: jax.Array | None,
    tokens: Tokens,
    *,
    buckets: int,
    reach: int,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Attention to content and relative positions (He et al. 2020, equation 4) -> [B, T, N, H]; softmax in float32.

    pos_k_RNH: the keys of relative positions, for queries of content (c2p), or None for scores without that term; its
    rows are those of `table_rows`. pos_q_RNH: the queries of relative positions, for keys of content (p2c), or None.
    Scores are divided by the square root of H and of the number of terms. A query that sees no key (padding) gives
    finite values.
    """
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    pos_q_RNH, pos_k_RNH = pin(pos_q_RNH), pin(pos_k_RNH)
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BTNH, preferred_element_type=jnp.float32)
    ahead = np.arange(1 - T, T)  # how far right of the first index the second is, by column of what is aligned
    if pos_k_RNH is not None:
        by_distance = jnp.einsum(
            "BTNH,RNH->BNTR", q_BTNH, pos_k_RNH[table_rows(-ahead, buckets, reach)], preferred_element_type=jnp.float32
        )
        scores_BNTS += align(by_distance)
    if pos_q_RNH is not None:
        by_distance = jnp.einsum(
            "BSNH,RNH->BNSR", k_BTNH, pos_q_RNH[table_rows(ahead, buckets, reach)], preferred_element_type=jnp.float32
        )
        scores_BNTS += jnp.swapaxes(align(by_distance), -1, -2)
    terms = 1 + (pos_k_RNH is not None) + (pos_q_RNH is not None)
    seen_BTS = visible(tokens, tokens, causal=False)
    scores_BNTS = jnp.where(seen_BTS[:, None], scores_BNTS * (H * terms) ** -0.5, -1e30)
    probs_BNTS = dropout(softmax(scores_BNTS).astype(v_BTNH.dtype), dropout_rate, dropout_key)
    return jnp.einsum("BNTS,BSNH->BTNH", probs_BNTS, v_BTNH)


def pin(x_RNH: jax.Array | None) -> jax.Array | None:
    """x sharded by heads alone. Left to itself the compiler adds up its gradient wrongly on a mesh of fsdp and tensor.

    Seen with jax 0.10.2 (`tests/train/test_families_on_meshes.py`): right for the heads of the first device only.
    """
    if x_RNH is None or all(cuts(axis) == 1 for axis in AXES):
        return x_RNH
    return jax.lax.with_sharding_constraint(x_RNH, P(None, "tensor" if cuts("tensor") > 1 else None, None))


def align(x_BNTR: jax.Array) -> jax.Array:
    """x [..., T, 2 T - 1], by distance from 1 - T to T - 1 -> y [..., T, T] with y[i, j] = x[i, T - 1 + j - i].

    Reshapes only (Dai et al. 2019, appendix B): a gather of single elements would be slow, its gradient more so.
    """
    *lead, T, R = x_BNTR.shape
    longer = jnp.pad(x_BNTR, [(0, 0)] * (len(lead) + 1) + [(0, 1)])
    flat = longer.reshape(*lead, T * (R + 1))[..., T - 1 : T - 1 + T * R]
    return flat.reshape(*lead, T, R)[..., :T]


def table_rows(distance: np.ndarray, buckets: int, reach: int) -> np.ndarray:
    """The rows of the table of relative positions, int32, for distances from a key to its query, in tokens.

    With 0 buckets the table has one row for each distance below `reach`, in either direction. Else it has `buckets`
    rows in each direction: half of them for one distance each, half for logarithmic ranges up to `reach`. Further
    distances have the outermost row. Computed in float32, as the published models were trained.
    """
    if buckets:
        half = buckets // 2
        far = np.maximum(np.abs(distance), half).astype(np.float32)
        scale = np.log(np.float32((reach - 1) / half))
        log = np.ceil(np.log(far / np.float32(half)) / scale * np.float32(half - 1)) + half
        distance = np.where(np.abs(distance) <= half, distance, log * np.sign(distance))
    span = buckets or reach
    return np.clip(distance + span, 0, 2 * span - 1).astype(np.int32)
