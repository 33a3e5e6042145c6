"""Dynamic masking of text for masked language models: which tokens are hidden, and what stands in their place.

Devlin et al. 2018, BERT, section 3.1, drawn anew in each epoch as in Liu et al. 2019, RoBERTa, section 4.1. The masks
of an example follow from the seed, the epoch and the example alone, so that they do not depend on the batch, the
mesh or where a run went on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.data.loader import Loader
from jaxllm.data.packing import Example, collate, even_rows
from jaxllm.data.text.rows import TextPlan, check_rows, collate_all, cut_pieces, pack_pieces
from jaxllm.data.text.token_cache import Corpus, Marks
from jaxllm.types import Batch, InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """How the tokens of a text are hidden."""

    mask: int
    """Id of the mask token."""
    special_V: np.ndarray
    """Which ids are special tokens, which are neither hidden nor put in the place of others, bool [V]."""
    rate: float = 0.15
    """Share of a text's tokens that are to be predicted; of each text as many, up to one."""
    replace: float = 0.8
    """Share of those that the mask token replaces."""
    random: float = 0.1
    """Share of those that a random token replaces; the rest stays as it is."""
    continues_V: np.ndarray | None = None
    """Which ids continue the word before them, bool [V], to hide whole words; None to hide single tokens."""

    def apply(self, tokens: np.ndarray, key: Sequence[int]) -> Example:
        """The example of a text, int32 [T]; `key` is the seed of its masks."""
        rng, ids = np.random.default_rng(key), tokens.astype(np.int32)
        special = self.special_V[ids]
        wanted = self.rate * int((~special).sum())
        count = int(wanted) + int(rng.random() < wanted - int(wanted))
        hidden = self._words(ids, special, count, rng) if self.continues_V is not None else np.zeros(len(ids), bool)
        if self.continues_V is None:
            hidden[rng.choice(np.flatnonzero(~special), count, replace=False)] = True
        draw, inputs = rng.random(len(ids)), ids.copy()
        others = np.flatnonzero(~self.special_V)
        random = others[rng.integers(0, len(others), len(ids))]
        inputs[hidden & (draw < self.replace)] = self.mask
        at = hidden & (draw >= self.replace) & (draw < self.replace + self.random)
        inputs[at] = random[at]
        return Example(inputs, np.where(hidden, ids, 0).astype(np.int32), hidden.astype(np.float32))

    def _words(self, ids: np.ndarray, special: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Whole words in random order, each that still fits into `count` tokens."""
        assert self.continues_V is not None
        starts = ~self.continues_V[ids] | special | np.concatenate([[True], special[:-1]])
        word = np.cumsum(starts) - 1
        size = np.bincount(word)
        size[np.unique(word[special])] = 0
        taken = np.zeros(len(size), bool)
        for one in rng.permutation(np.flatnonzero(size)):
            if size[one] <= count:
                taken[one], count = True, count - int(size[one])
        return taken[word]


def masking_of(
    tokenizer: Any, *, rate: float = 0.15, replace: float = 0.8, random: float = 0.1, whole_words: bool = False
) -> Masking:
    """The masking of a tokenizer's texts. Raises InputError for one without a mask token, and for impossible rates."""
    if not 0 < rate < 1:
        raise InputError(f"--mask-rate {rate}: give a share above 0 and below 1")
    if min(replace, random) < 0 or replace + random > 1:
        raise InputError(
            f"--mask-replace-prob {replace} --random-replace-prob {random}: give shares that are at most 1 together"
        )
    if tokenizer.mask_token_id is None:
        raise InputError(
            "the tokenizer has no mask token, which masked tokens are replaced by; name another --tokenizer"
        )
    special_V = np.zeros(len(tokenizer), bool)
    special_V[list(tokenizer.all_special_ids)] = True
    continues = _continuing(tokenizer) if whole_words else None
    return Masking(tokenizer.mask_token_id, special_V, rate, replace, random, continues)


def _continuing(tokenizer: Any) -> np.ndarray:
    """Which ids continue a word: by WordPiece's prefix, or by the mark that begins words. Raises InputError."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if prefix := parts["model"].get("continuing_subword_prefix"):
        return np.array([token.startswith(prefix) for token in tokens])
    kinds = json.dumps([parts.get("pre_tokenizer"), parts.get("decoder")])
    for kind, mark in (("Metaspace", "\u2581"), ("ByteLevel", "\u0120")):
        if f'"{kind}"' in kinds:  # a mark of punctuation is a word of its own
            return np.array([not token.startswith(mark) and token[:1].isalnum() for token in tokens])
    raise InputError("--whole-words: the tokenizer does not mark where words begin; leave the flag out")


class Pieces:
    """Documents in rows of `length` tokens, each piece of one between the tokenizer's begin and end tokens."""

    def __init__(self, corpus: Corpus, length: int, marks: Marks, pack: bool = True):
        self.corpus, self.length, self.marks = corpus, length, marks
        self._starts, self._lengths = cut_pieces(corpus.starts + 1, corpus.ends - 1, length - 2)  # without the marks
        self._order, self._row_ends = pack_pieces(self._lengths + 2, length, pack)

    def __len__(self) -> int:
        return len(self._row_ends)

    def numbers(self, index: int) -> list[int]:
        """The numbers of the pieces in a row."""
        low = self._row_ends[index - 1] if index else 0
        return [int(i) for i in self._order[low : self._row_ends[index]]]

    def tokens(self, number: int) -> np.ndarray:
        """The tokens of a piece, int32."""
        start = self._starts[number]
        inner = self.corpus.tokens[start : start + self._lengths[number]].astype(np.int32)
        return np.concatenate([[self.marks.begin], inner, [self.marks.end]]).astype(np.int32)


def masked_loader(
    parts: Sequence[Pieces], weights: Sequence[float], masking: Masking, *, batch_size: int, seed: int
) -> Loader:
    """A loader of `batch_size` rows a step from these corpora, masked anew in each epoch of a corpus.

    Raises InputError for a corpus without text, and for a weight that gives a corpus no row.
    """
    plan = TextPlan(tuple(parts), tuple(weights), batch_size, seed)
    check_rows(plan)

    def build(rows: list[list[int]], count: int) -> Batch:
        made = [_masked(parts[row[0]], row[2], masking, (seed, 4, row[0], row[1])) if row else [] for row in rows]
        return collate(made, plan.length, count)

    return Loader(plan, build)


def _masked(part: Pieces, row: int, masking: Masking, key: tuple[int, ...]) -> list[Example]:
    return [masking.apply(part.tokens(number), (*key, number)) for number in part.numbers(row)]


@dataclasses.dataclass(frozen=True)
class MaskedBatches:
    """Every piece of these corpora once, under masks that are always the same.

    In batches of about `most` rows, a multiple of `multiple`.
    """

    parts: Sequence[Pieces]
    masking: Masking
    most: int
    multiple: int = 1

    def __iter__(self) -> Iterator[Batch]:
        rows = (_masked(part, row, self.masking, (0, 5, i)) for i, part in enumerate(self.parts)
                for row in range(len(part)))  # fmt: skip
        count = even_rows(sum(map(len, self.parts)), self.most, self.multiple)
        return collate_all(rows, self.parts[0].length, count)
