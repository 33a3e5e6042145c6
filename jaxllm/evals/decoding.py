"""From the log-probabilities of labels to one label for each word: the likeliest, or the best path of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.data.tagging import chains
from jaxllm.data.tagging.chains import Chain
from jaxllm.data.tagging.windows import Windows, stitch
from jaxllm.types import check_one_of

DECODE = ("argmax", "viterbi")
"""argmax: each word's own likeliest label, whatever its neighbours'. viterbi: the likeliest of the paths that the
scheme of the tags allows. By default the likeliest path of a model with a CRF, and argmax for one without."""


def find_chain(params: Any, labels: Sequence[str], scheme: str, decode: str = "") -> Chain | None:
    """The chain that tags are decoded by; None for each word's own likeliest label.

    params: of the model, by name. decode: of DECODE, or "" for what fits the model. Raises InputError for another.
    """
    check_decode(decode)
    learned = crf_of(params)
    if decode == "viterbi":
        valid = chains.valid_chain(labels, scheme)
        return valid + learned if learned else valid
    return None if decode == "argmax" else learned


def check_decode(decode: str) -> None:
    """Raises InputError for what is neither of DECODE nor empty."""
    check_one_of("--decode", decode, ("", *DECODE))


def crf_of(params: Any) -> Chain | None:
    """The scores that a CRF has learned; None for a model without one."""
    if "crf.pairs" not in params:
        return None
    found = (np.asarray(jax.device_get(params[f"crf.{name}"]), np.float64) for name in ("start", "pairs", "end"))
    return Chain(*found)


def words_of(windows: Windows, logps: Sequence[np.ndarray], count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log-probabilities of the `count` labels for each word of each sentence, [n, V], and which words have tokens, [n].

    logps: per window over its positions, [T, V]. A word without tokens has 0.
    """
    there = stitch(windows, [np.ones(len(example.tokens), bool) for example in windows.examples])
    whole = stitch(windows, logps) if logps else [np.zeros((n, count), np.float32) for n in windows.counts]
    return whole, [x.astype(bool) for x in there]


def decide(
    whole: Sequence[np.ndarray], there: Sequence[np.ndarray], chain: Chain | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Label numbers and their probabilities, [n] each, of the words of each sentence.

    whole, there: as `words_of` gives them; a word without tokens gets label 0 and probability 0. The probabilities are
    the model's own, and a CRF's where the chain has learned scores.
    """
    if chain is None:
        numbers = [x.argmax(1) * own for x, own in zip(whole, there, strict=True)]
        return numbers, [np.exp(x.max(1, initial=-np.inf)) * own for x, own in zip(whole, there, strict=True)]
    scored = [x.astype(np.float64) for x in whole]
    for x, own in zip(scored, there, strict=True):
        x[~own, 1:] = -np.inf
    paths = chains.best_paths(scored, chain)
    learned = bool(np.any(chain.pairs[np.isfinite(chain.pairs)]))
    likely = chains.marginals(scored, chain) if learned else [np.exp(x) for x in whole]
    taken = [np.take_along_axis(p, path[:, None], 1)[:, 0] for p, path in zip(likely, paths, strict=True)]
    return paths, [p * own for p, own in zip(taken, there, strict=True)]


def crf_losses(
    whole: Sequence[np.ndarray], there: Sequence[np.ndarray], targets: Sequence[np.ndarray], chain: Chain
) -> np.ndarray:
    """-log of the probability that a CRF gives the true labels of each sentence, in nats; words without tokens aside.

    targets: label numbers, [n] per sentence.
    """
    scores = [x[own].astype(np.float64) for x, own in zip(whole, there, strict=True)]
    gold = [
        chains.path_score(x, target[own], chain) for x, own, target in zip(scores, there, targets, strict=True)
    ]  # fmt: skip
    return chains.log_normalisers(scores, chain) - np.array(gold)
