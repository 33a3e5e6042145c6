"""Evaluation of masked language models: cross entropy and pseudo-perplexity on a fixed mask, and filling in blanks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data.packing import Example, collate
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.loss import costs, totals
from jaxllm.train.forward import Runner
from jaxllm.types import Batch, Numbers

NUMBERS = ("loss", "pseudo_perplexity")
"""What `evaluate` gives."""


def evaluate(model: Any, batches: Iterable[Batch]) -> Numbers:
    """loss (nats per masked token) and pseudo_perplexity (its exponential) of a `Runner`'s model.

    Pseudo-perplexity as in Salazar et al. 2020, section 2.3, but under one mask of many tokens for each text instead of
    one mask for each token.
    """
    found = totals(model, costs, batches)
    return {"loss": found["loss"], "pseudo_perplexity": found["perplexity"]}


def frequency_loss(train: Sequence[np.ndarray], dev: Sequence[np.ndarray], special_V: np.ndarray) -> float:
    """The loss of a model that knows nothing but how often each token is in the texts of train, in nats per token.

    train, dev: token ids, [n] each. special_V: which ids are never asked for. Every other one counts once more than it
    is there.
    """
    counts = [sum(np.bincount(ids, minlength=len(special_V)) for ids in part) for part in (train, dev)]
    known_V, asked_V = (np.where(special_V, 0, count + extra) for count, extra in zip(counts, (1, 0), strict=True))
    logps = np.log(known_V[~special_V] / known_V.sum())
    return float(-(asked_V[~special_V] @ logps) / asked_V.sum())


def _probabilities(model: Any, batch: Batch) -> jax.Array:
    """Of every token of the vocabulary at the first position of each row that has weight, [B, V]."""
    hidden_BTD, _ = model.hidden(batch)
    at_B = jnp.argmax(batch.weights_BT > 0, axis=1)
    return jax.nn.softmax(model.head(jnp.take_along_axis(hidden_BTD, at_B[:, None, None], axis=1)[:, 0]))


def fill(model: Runner, tokenizer: Any, texts: list[str], top: int = 5) -> list[list[tuple[str, float]]]:
    """The likeliest tokens, and their probabilities, at the first mask token of each text, which must have one.

    The same as transformers' pipeline("fill-mask").
    """
    rows, multiple = [], row_multiple(model.mesh)
    for text in texts:
        ids = np.asarray(tokenizer(text)["input_ids"], np.int32)
        rows.append([Example(ids, ids, (ids == tokenizer.mask_token_id).astype(np.float32))])
    length = -(-max(len(row[0].tokens) for row in rows) // 16) * 16
    batch = collate(rows, length, -(-len(rows) // multiple) * multiple)
    [found_BV] = model.map(_probabilities, [batch])
    best = np.argsort(-found_BV[: len(texts)], axis=1, kind="stable")[:, :top]
    return [
        [(tokenizer.decode([int(i)]).strip(), float(p[i])) for i in ids] for p, ids in zip(found_BV, best, strict=False)
    ]
