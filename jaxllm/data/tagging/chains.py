"""Linear chains over the labels of a sentence: the likeliest valid tags, and the probabilities of a CRF.

The score of a path y through the words of a sentence is start[y_1] + sum_i s_i[y_i] + sum_i pairs[y_i, y_i+1] +
end[y_n] (Lafferty et al. 2001; Lample et al. 2016, equation 1). All scores are in nats; that of a path that is not
allowed is -inf. Sentences are computed many at a time, in numpy; what a CRF learns from is in losses/crf.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxllm.data.tagging.schemes import SCHEMES, parse, told_by

GROUP = 256
"""Sentences that are computed at a time."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """The scores of the first label [V], of a label after another [V, V] (from, to), and of the last label [V]."""

    start: np.ndarray
    pairs: np.ndarray
    end: np.ndarray

    def __add__(self, other: Chain) -> Chain:
        return Chain(self.start + other.start, self.pairs + other.pairs, self.end + other.end)


def valid_chain(labels: Sequence[str], scheme: str) -> Chain:
    """0 for what the scheme allows, -inf for what it does not: the paths of 0 are the tags that it writes.

    labels: "O" among them, so that there is a valid path through every sentence. scheme: a name in SCHEMES.
    """
    parts = [parse(label) for label in ("O", *labels)]  # the edges of a sentence are as O
    scores = np.where([[_follows(a, b, scheme) for b in parts] for a in parts], 0.0, -np.inf)
    return Chain(scores[0, 1:], scores[1:, 1:], scores[1:, 0])


def _follows(a: tuple[str, str], b: tuple[str, str], scheme: str) -> bool:
    """Whether tag b may follow tag a, each a letter and an entity type."""
    letters = SCHEMES[scheme]
    same = a[1] == b[1] and "O" not in (a[0], b[0])
    if scheme == "IOB1":  # B marks an entity only where another of its type is before it
        return b[0] != "B" or same
    if scheme == "IOE1":
        return a[0] != "E" or same
    if scheme == "IOB2":
        return b[0] != "I" or same
    if scheme == "IOE2":
        return a[0] != "I" or same
    if not letters:  # IO
        return True
    begin, end, inside = letters[0], "L" if "L" in letters else "E", "M" if "M" in letters else "I"
    if a[0] in (begin, inside):  # an entity is open, and must go on
        return same and b[0] in (inside, end)
    return b[0] not in (inside, end)


def scheme_of(labels: Sequence[str]) -> str:
    """The scheme that labels without examples are most likely of.

    B and I are of IOB2, and of IOB1 where a type has I alone: there B is rare. Likewise E and I.
    """
    parts = [parse(label) for label in labels if label != "O"]
    letters = {letter for letter, _ in parts}
    if letters <= {""}:
        return "IO"
    mark, always, adjoining = told_by(letters)
    alone = {kind for letter, kind in parts if letter == "I"} - {kind for letter, kind in parts if letter == mark}
    return adjoining if alone else always


def best_paths(scores: Sequence[np.ndarray], chain: Chain) -> list[np.ndarray]:
    """The path of the highest score through each sentence, as label numbers [n] (Viterbi 1967).

    scores: per sentence the scores of the labels for each word, [n, V]. Of equal paths the one of lower labels, from
    the last word on.
    """

    def solve(s_NWV: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        N, W, V = s_NWV.shape
        best_NV, back = chain.start + s_NWV[:, 0], []
        for w in range(1, W):
            through_NVV = best_NV[:, :, None] + chain.pairs
            live_N1 = (w < lengths_N)[:, None]
            back.append(np.where(live_N1, through_NVV.argmax(1), np.arange(V)))
            best_NV = np.where(live_N1, through_NVV.max(1) + s_NWV[:, w], best_NV)
        path_NW = np.empty((N, W), np.int64)
        path_NW[:, -1] = (best_NV + chain.end).argmax(1)
        for w in range(W - 1, 0, -1):
            path_NW[:, w - 1] = np.take_along_axis(back[w - 1], path_NW[:, w : w + 1], 1)[:, 0]
        return path_NW

    return [path.astype(np.int64).reshape(-1) for path in _grouped(scores, solve)]


def marginals(scores: Sequence[np.ndarray], chain: Chain) -> list[np.ndarray]:
    """The probability of each label of each word, [n, V], by the forward-backward algorithm (Rabiner 1989)."""

    def solve(s_NWV: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        forward_NWV, log_z_N = _forward(s_NWV, lengths_N, chain)
        backward_NWV = np.empty_like(s_NWV)
        after_NV = np.broadcast_to(chain.end, s_NWV[:, 0].shape)
        backward_NWV[:, -1] = after_NV
        for w in range(s_NWV.shape[1] - 2, -1, -1):
            through_NVV = chain.pairs + (s_NWV[:, w + 1] + after_NV)[:, None, :]
            after_NV = np.where((w + 1 < lengths_N)[:, None], _log_sum(through_NVV, 2), after_NV)
            backward_NWV[:, w] = after_NV
        return np.exp(forward_NWV + backward_NWV - log_z_N[:, None, None])

    return _grouped(scores, solve)


def log_normalisers(scores: Sequence[np.ndarray], chain: Chain) -> np.ndarray:
    """log of the sum of exp(score) over all paths, per sentence, in nats."""
    found = np.zeros(len(scores))

    def solve(s_NWV: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        return np.repeat(_forward(s_NWV, lengths_N, chain)[1][:, None], s_NWV.shape[1], axis=1)

    for i, row in enumerate(_grouped(scores, solve)):
        found[i] = row[0] if len(row) else 0.0
    return found


def path_score(scores: np.ndarray, path: np.ndarray, chain: Chain) -> float:
    """The score of one path through a sentence, in nats; 0 for a sentence without words."""
    if not len(path):
        return 0.0
    inner = scores[np.arange(len(path)), path].sum() + chain.pairs[path[:-1], path[1:]].sum()
    return float(chain.start[path[0]] + inner + chain.end[path[-1]])


def _forward(s_NWV: np.ndarray, lengths_N: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """The log of the sum over all paths to each label of each word, [N, W, V], and over whole paths, [N]."""
    sum_NV = chain.start + s_NWV[:, 0]
    every = [sum_NV]
    for w in range(1, s_NWV.shape[1]):
        through_NV = _log_sum(sum_NV[:, :, None] + chain.pairs, 1) + s_NWV[:, w]
        sum_NV = np.where((w < lengths_N)[:, None], through_NV, sum_NV)
        every.append(sum_NV)
    return np.stack(every, axis=1), _log_sum(sum_NV + chain.end, 1)


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    """log of the sum of exp(x) over an axis; -inf of nothing but -inf."""
    high = x.max(axis=axis, keepdims=True)
    high = np.where(np.isfinite(high), high, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - high).sum(axis=axis)) + high.squeeze(axis)


def _grouped(scores: Sequence[np.ndarray], solve: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """`solve(scores [N, W, V], lengths [N]) -> [N, W, ...]` of sentences of like length at a time, in float64."""
    found: list[np.ndarray] = [np.zeros((0, *x.shape[1:])) for x in scores]
    order = sorted((i for i, x in enumerate(scores) if len(x)), key=lambda i: len(scores[i]))
    for low in range(0, len(order), GROUP):
        group = order[low : low + GROUP]
        lengths = np.array([len(scores[i]) for i in group])
        padded = np.zeros((len(group), int(lengths.max()), scores[group[0]].shape[1]))
        for row, i in enumerate(group):
            padded[row, : lengths[row]] = scores[i]
        for i, length, values in zip(group, lengths.tolist(), solve(padded, lengths), strict=True):
            found[i] = values[:length]
    return found
