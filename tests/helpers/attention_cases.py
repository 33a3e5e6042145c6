"""Queries, keys, values and packed rows on which ways to compute attention are compared."""

import jax.numpy as jnp
import numpy as np

from jaxllm.models.attention import Tokens

B, T, N, K, H = 4, 24, 4, 2, 8


def draw():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32) for heads in (N, K, K, N)]


def packed(branches):
    """Rows of several documents, one of them empty at its end, and one that is a prompt with two answers."""
    segments, positions, branch = (np.zeros((B, T), np.int32) for _ in range(3))
    for row, lengths in enumerate([(24,), (5, 11, 3), (1, 1, 13), (15,)]):
        ends = np.cumsum(lengths)
        for i, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            segments[row, end - length : end], positions[row, end - length : end] = i + 1, np.arange(length)
    branch[3, 5:10], branch[3, 10:15], positions[3, 10:15] = 1, 2, np.arange(5, 10)
    return Tokens(*map(jnp.asarray, (segments, positions)), jnp.asarray(branch) if branches else None)


CASES = {
    "causal": {"causal": True}, "branches": {"causal": True}, "encoder": {"causal": False, "window": 3},
    "gemma": {"causal": True, "window": 4, "softcap": 2.0, "scale": 0.3},
}  # fmt: skip
