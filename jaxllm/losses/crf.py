"""A conditional random field over the labels of a sentence: a loss of whole tag sequences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.losses.chunks import reorder, to_front
from jaxllm.types import Batch, InputError, Mean, Metrics


def crf(model: Any, batch: Batch, key: jax.Array | None = None) -> Metrics:
    """log Z - score(y), in nats per word: a linear-chain CRF over the labels of each sentence (Lafferty et al. 2001).

    score(y) = start[y_1] + sum_i s_i[y_i] + sum_i pairs[y_i, y_i+1] + end[y_n], with the head's logits s_i of the words
    and `model.transitions()`; Z sums exp(score) over all label sequences (Lample et al. 2016, equation 1). The words of
    a sentence are the positions of its segment whose weight is not 0: first sub-words. Where all transitions are 0 it
    is cross entropy. Z comes from the forward algorithm, a scan over positions in float32. A window of a sentence that
    is longer than a row is a chain of its own. Evaluations and `python -m jaxllm tag` take the likeliest sequence.
    """
    if getattr(model, "transitions", None) is None or (found := model.transitions()) is None:
        raise InputError("this loss reads the transitions of a tagger's CRF, and the model has none: build it with crf")
    hidden_BTD, _ = model.hidden(batch, key)
    logits_BTV = model.head(hidden_BTD)
    logits_BTV = logits_BTV.astype(jnp.promote_types(logits_BTV.dtype, jnp.float32))
    start_V, pairs_VV, end_V = (x.astype(logits_BTV.dtype) for x in found)
    # The words of a row come first, in their order, so that a word's neighbour is beside it.
    is_word_BT = batch.weights_BT != 0
    values = (logits_BTV, batch.targets_BT, batch.segments_BT, is_word_BT)
    logits_BTV, targets_BT, segments_BT, words_BT = reorder(values, *to_front(is_word_BT))
    first_BT, last_BT = _edges(segments_BT, words_BT)
    before_BT = jnp.roll(targets_BT, 1, axis=1)
    score_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    score_BT += jnp.where(first_BT, start_V[targets_BT], pairs_VV[before_BT, targets_BT])
    score_BT += jnp.where(last_BT, end_V[targets_BT], 0)
    log_z_B = _log_normalisers(logits_BTV, first_BT, last_BT, words_BT, start_V, pairs_VV, end_V)
    total = jnp.sum(log_z_B) - jnp.sum(jnp.where(words_BT, score_BT, 0))
    return {"loss": Mean(total, jnp.sum(words_BT.astype(jnp.float32)))}


crf.kind = "sentences"  # type: ignore[attr-defined]


def _edges(segments_BT: jax.Array, words_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether each position is the first, and the last, word of its sentence, [B, T]; the words of a row come first."""
    apart_BT = segments_BT[:, 1:] != segments_BT[:, :-1]
    edge_B1 = jnp.ones_like(apart_BT[:, :1])
    first_BT = words_BT & jnp.concatenate([edge_B1, apart_BT], axis=1)
    last_BT = words_BT & jnp.concatenate([apart_BT | ~words_BT[:, 1:], edge_B1], axis=1)
    return first_BT, last_BT


def _log_normalisers(
    logits_BTV: jax.Array, first_BT: jax.Array, last_BT: jax.Array, words_BT: jax.Array,
    start_V: jax.Array, pairs_VV: jax.Array, end_V: jax.Array,
) -> jax.Array:  # fmt: skip
    """The sum of log Z over the sentences of each row, [B], by the forward algorithm."""

    @jax.checkpoint  # of what it computes, [B, V, V] per position, the backward pass makes the most anew
    def body(carry: tuple[jax.Array, jax.Array], position: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        sum_BV, log_z_B = carry
        s_BV, first_B, last_B, word_B = position
        through_BV = jax.nn.logsumexp(sum_BV[:, :, None] + pairs_VV[None], axis=1)
        new_BV = s_BV + jnp.where(first_B[:, None], start_V[None], through_BV)
        sum_BV = jnp.where(word_B[:, None], new_BV, sum_BV)
        log_z_B += jnp.where(last_B, jax.nn.logsumexp(sum_BV + end_V[None], axis=1), 0)
        return (sum_BV, log_z_B), None

    positions = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (logits_BTV, first_BT, last_BT, words_BT))
    zeros_BV = jnp.zeros_like(logits_BTV[:, 0])
    return jax.lax.scan(body, (zeros_BV, zeros_BV[:, 0]), positions)[0][1]
