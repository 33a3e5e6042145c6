"""Joining labels of sub-words to entities as transformers' TokenClassificationPipeline does, for many texts at once.

| strategy | an item | its label and score |
|----------|---------|---------------------|
| simple   | each sub-word | its own likeliest label |
| first    | each word | those of its first sub-word |
| max      | each word | those of the sub-word that is surest of its label |
| average  | each word | the likeliest label by the mean of its sub-words' probabilities |

What a word is, the pipeline reads off the tokenizer. WordPiece marks sub-words (`##ing`), and so a word is what its
pre-tokenizer cuts: punctuation stands alone. Other tokenizers have no such mark: there a word is all that stands
between spaces, with its punctuation. Items whose labels have one type are joined, unless the later one begins with
`B-`. Only `B-` and `I-` are known to it: E-person and S-person are types of their own, called person in the result.

The pipeline's own methods can be called without a model, and find the same, in three to ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data.tagging.examples import Text

STRATEGIES = ("simple", "first", "max", "average")


def group_entities(
    texts: Sequence[Text], scores: Sequence[np.ndarray], labels: Sequence[str], tokenizer: Any, strategy: str
) -> list[list[dict[str, Any]]]:
    """The entities of each text, as `pipeline("token-classification", aggregation_strategy=strategy)` returns them.

    scores: per text the probabilities of the labels for each of its tokens, [n, V]. Of each entity: entity_group, score
    (the mean over its items), word (as the tokenizer decodes it), start and end (in characters).
    """
    counts = [len(text.ids) for text in texts]
    found: list[list[dict[str, Any]]] = [[] for _ in texts]
    if not sum(counts):
        return found
    owner = np.repeat(np.arange(len(texts)), counts)
    probabilities = np.concatenate([x for x in scores if len(x)])
    ids = np.concatenate([text.ids for text in texts])
    offsets = np.concatenate([text.offsets for text in texts])
    starts = np.arange(len(ids))
    if strategy != "simple":
        starts = np.flatnonzero(_begins_word(texts, ids, offsets, owner, tokenizer))
    stops = np.append(starts[1:], len(ids))
    label, score = _items(probabilities, starts, stops, strategy)
    kinds = {name: number for number, name in enumerate(dict.fromkeys(map(_kind, labels)))}
    kind = np.array([kinds[_kind(name)] for name in labels])[label]
    begins = np.array([name.startswith("B-") for name in labels])[label]
    apart = (kind[1:] != kind[:-1]) | begins[1:] | (owner[starts[1:]] != owner[starts[:-1]])
    first = np.flatnonzero(np.append(True, apart))
    after = np.append(first[1:], len(starts))
    names = [name.split("-", 1)[-1] for name in labels]
    inside = np.array([name != "O" for name in names])[label[first]]
    for low, high in zip(first[inside].tolist(), after[inside].tolist(), strict=True):
        text = texts[owner[starts[low]]]
        words: list[str] = []
        for item in range(low, high):
            pieces = _pieces(text, ids, offsets, range(starts[item], stops[item]), tokenizer)
            words += pieces if strategy == "simple" else [tokenizer.convert_tokens_to_string(pieces)]
        found[owner[starts[low]]].append({
            "entity_group": names[label[low]],
            "score": float(score[low:high].mean()),
            "word": tokenizer.convert_tokens_to_string(words),
            "start": int(offsets[starts[low], 0]),
            "end": int(offsets[stops[high - 1] - 1, 1]),
        })  # fmt: skip
    return found


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _begins_word(
    texts: Sequence[Text], ids: np.ndarray, offsets: np.ndarray, owner: np.ndarray, tokenizer: Any
) -> np.ndarray:
    """Whether each token begins a word: the first of a text does, and the unknown token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and getattr(backend.model, "continuing_subword_prefix", None):
        unique, at = np.unique(ids, return_inverse=True)
        length = np.array([len(token) for token in tokenizer.convert_ids_to_tokens(unique.tolist())])[at]
        begins = length == offsets[:, 1] - offsets[:, 0]
    else:
        begins = np.array([
            start == 0 or " " in texts[text].text[start - 1 : start + 1]
            for text, start in zip(owner.tolist(), offsets[:, 0].tolist(), strict=True)
        ])  # fmt: skip
    return begins | (ids == tokenizer.unk_token_id) | (np.diff(owner, prepend=-1) != 0)


def _items(probabilities: np.ndarray, starts: np.ndarray, stops: np.ndarray, strategy: str) -> tuple[Any, Any]:
    """Label number and score of each item, of which `starts` and `stops` are the tokens."""
    if strategy == "average":
        means = np.add.reduceat(probabilities, starts) / (stops - starts)[:, None].astype(probabilities.dtype)
        return means.argmax(1), means.max(1)
    if strategy == "max":
        surest = probabilities.max(1)
        item = np.repeat(np.arange(len(starts)), stops - starts)
        # The first of the surest: the last that is written for an item stays, so they are written from the end.
        chosen = np.flatnonzero(surest == np.maximum.reduceat(surest, starts)[item])[::-1]
        at = np.zeros(len(starts), np.int64)
        at[item[chosen]] = chosen
        starts = at
    return probabilities[starts].argmax(1), probabilities[starts].max(1)


def _pieces(text: Text, ids: np.ndarray, offsets: np.ndarray, tokens: range, tokenizer: Any) -> list[str]:
    """The tokens as the tokenizer spells them, the unknown one as the text has it."""
    pieces = tokenizer.convert_ids_to_tokens(ids[tokens.start : tokens.stop].tolist())
    unknown = tokenizer.unk_token_id
    return [
        text.text[slice(*offsets[i])] if ids[i] == unknown else piece for i, piece in zip(tokens, pieces, strict=True)
    ]
