"""A toy language model and packed rows of answers, with a slow account in numpy of the log-probabilities in them."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxllm.losses.pairs import PairLogps
from jaxllm.models.teacher import Taught
from jaxllm.types import Answers, Batch

V, D, T, A = 11, 5, 40, 6


@pytest.fixture(scope="session")
def oracle():
    return json.loads((Path(__file__).parent / "preference_losses.json").read_text())


class Toy(nnx.Module):
    """Logits from a token and its position."""

    def __init__(self, seed, out=V):
        rng = np.random.default_rng(seed)
        self.embed = nnx.Param(jnp.asarray(rng.normal(size=(V, D)), jnp.float32))
        self.out = nnx.Param(jnp.asarray(rng.normal(size=(D, out)), jnp.float32))

    def hidden(self, batch, key=None):
        return jnp.tanh(self.embed[...][batch.tokens_BT] + jnp.cos(batch.positions_BT)[..., None]), {}

    def head(self, hidden_ND):
        return hidden_ND @ self.out[...]


@jax.jit
def all_logits(model, batch):
    return model.head(model.hidden(batch)[0])


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows of answers, and where the pairs are: (row, positions of the chosen, positions of the rejected)."""

    answers: Answers
    places: list

    def logps(self, model):
        """log softmax of every position, [B, T, V] float64."""
        logits = np.asarray(all_logits(model, self.answers.batch), np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def ragged(self, model, reference=None):
        """The same pairs as lists."""
        logp, target = self.logps(model), np.asarray(self.answers.batch.targets_BT)
        log_sq = np.log(np.exp(2 * logp).sum(-1))

        def at(x, row, where):
            return [x[row, t, target[row, t]] for t in where]

        def flat(x, row, where):
            return [x[row, t] for t in where]

        chosen, rejected = [(r, c) for r, c, _ in self.places], [(r, j) for r, _, j in self.places]
        ref = None if reference is None else self.logps(reference)
        return PairLogps.of(
            [at(logp, *x) for x in chosen],
            [at(logp, *x) for x in rejected],
            None if ref is None else [at(ref, *x) for x in chosen],
            None if ref is None else [at(ref, *x) for x in rejected],
            log_sum_sq_chosen=[flat(log_sq, *x) for x in chosen],
            log_sum_sq_rejected=[flat(log_sq, *x) for x in rejected],
        )

    def with_reference(self, model):
        """The batch carries the log-probabilities of `model`."""
        logp, target = self.logps(model), np.asarray(self.answers.batch.targets_BT)
        ref = np.take_along_axis(logp, target[..., None], -1)[..., 0]
        return dataclasses.replace(self, answers=dataclasses.replace(self.answers, ref_logps_BT=jnp.float32(ref)))


def pack_rows(pairs_per_row=(3, 1, 2, 0), seed=0):
    """Prompts and answers of random lengths, sides in random order; what is no pair has weight 0."""
    rng = np.random.default_rng(seed)
    rows = len(pairs_per_row)
    segments, positions = np.zeros((2, rows, T), np.int32)
    weights, answer = np.zeros((rows, T), np.float32), np.full((rows, T), -1, np.int32)
    pair, side, weight = (
        np.full((rows, A), -1, np.int32),
        np.zeros((rows, A), np.int32),
        np.zeros((rows, A), np.float32),
    )
    places, number = [], 0
    for row, pairs in enumerate(pairs_per_row):
        order = [(p, s) for p in range(pairs) for s in rng.permutation([1, -1])]
        at, where = 0, {}
        for a, (p, s) in enumerate(order):
            prompt, length = rng.integers(1, 3), rng.integers(1, 5)
            span = np.arange(at + prompt, at + prompt + length)
            segments[row, at : span[-1] + 1], positions[row, at : span[-1] + 1] = a + 1, np.arange(prompt + length)
            weights[row, span], answer[row, span] = 1, a
            pair[row, a], side[row, a], weight[row, a] = number + p, s, 1
            where[p, s], at = span.tolist(), span[-1] + 1
        number += pairs
        places += [(row, where[p, 1], where[p, -1]) for p in range(pairs)]
    tokens, targets = rng.integers(0, V, (2, rows, T), dtype=np.int32)
    batch = Batch(*map(jnp.asarray, (tokens, targets, weights, segments, positions)))
    margin = jnp.asarray(np.zeros((rows, A), np.float32))
    return Packed(Answers(batch, *map(jnp.asarray, (answer, pair, side, weight)), margin), places)


@pytest.fixture(scope="session")
def pack():
    return pack_rows


@pytest.fixture(scope="session")
def packed():
    return pack_rows()


@pytest.fixture(scope="session")
def toy():
    return Toy(1)


@pytest.fixture(scope="session")
def taught():
    """The toy with another toy as its teacher and reference."""
    return Taught(Toy(1), Toy(2))


@pytest.fixture(scope="session")
def scorer():
    """A toy with one number per token."""
    return Toy(3, out=1)


@pytest.fixture
def small_chunks(monkeypatch):
    """Logits of at most 7 positions of each of the four rows at once, in which T leaves a remainder."""
    monkeypatch.setattr("jaxllm.losses.tokens.LOGITS_BYTES", 4 * V * 4 * 7)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
