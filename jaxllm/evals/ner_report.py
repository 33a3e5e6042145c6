"""What a tagger gets wrong, as a page in Markdown: by strictness, length and type, and the ten worst sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from jaxllm.data.tagging.schemes import entities, parse

Found = list[list[tuple[str, int, int]]]
"""The entities of each sentence: type, first word, and the word after the last."""

LENGTHS = ((1, 1), (2, 2), (3, 3), (4, None))
SENTENCE_LENGTHS = ((1, 10), (11, 20), (21, 40), (41, None))
"""From a number of words to another."""

WORST = 10

STRICT = {"IOB2": "BI*", "IOE2": "I*E", "IOBES": "BI*E|S", "BILOU": "BI*L|U", "BMES": "BM*E|S"}
"""The letters of an entity, in the schemes that mark its ends always."""


def overlap(a: tuple[str, int, int], b: tuple[str, int, int]) -> int:
    """The number of words that two entities have in common."""
    return max(0, min(a[2], b[2]) - max(a[1], b[1]))


def scores(right_predicted: int, predicted: int, right_true: int, true: int) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where undefined."""
    precision, recall = right_predicted / max(1, predicted), right_true / max(1, true)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def lenient(true: Found, predicted: Found) -> tuple[float, float, float]:
    """Precision, recall and F1 where an entity is right that has a word in common with one of its type."""

    def right(these: Found, those: Found) -> int:
        return sum(
            any(a[0] == b[0] and overlap(a, b) for b in others)
            for own, others in zip(these, those, strict=True)
            for a in own
        )

    counts = (sum(map(len, found)) for found in (predicted, true))
    predicted_count, true_count = counts
    return scores(right(predicted, true), predicted_count, right(true, predicted), true_count)


def strict(true: Sequence[Sequence[str]], found: Sequence[Sequence[str]], scheme: str) -> tuple[float, float, float]:
    """Precision, recall and F1 where an entity is right in type and both ends, and its tags are as the scheme writes
    them. true, found: tags per sentence."""
    valid = [[e for e in entities(tags) if _valid(tags, e, scheme)] for tags in found]
    return exact([entities(tags) for tags in true], valid, lambda e: True)


def exact(true: Found, predicted: Found, keep: Callable[[tuple[str, int, int]], bool]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the entities that `keep` keeps, right where type and both ends are."""
    a, b = ({(i, *e) for i, own in enumerate(found) for e in own if keep(e)} for found in (true, predicted))
    return scores(len(a & b), len(b), len(a & b), len(a))


def confusion(true: Found, predicted: Found) -> Counter[tuple[str, str]]:
    """How often an entity of a type (first) was found as one of another (second).

    A true entity goes with the predicted one that has most words in common with it; "" stands for none: entities that
    were missed, and predicted ones that have no word in common with any.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for own, found in zip(true, predicted, strict=True):
        for a in own:
            best = max(found, key=lambda b, a=a: (overlap(a, b), a[0] == b[0]), default=None)  # type: ignore[misc]
            counts[a[0], best[0] if best and overlap(a, best) else ""] += 1
        counts.update(("", b[0]) for b in found if not any(overlap(a, b) for a in own))
    return counts


def write_report(
    words: Sequence[Sequence[str]], true: Sequence[Sequence[str]], found: Sequence[Sequence[str]], scheme: str
) -> str:
    """The page. words, true, found: per sentence its words, its tags and the tags that were predicted."""
    a, b = ([entities(tags) for tags in lines] for lines in (true, found))
    types = sorted({e[0] for own in (*a, *b) for e in own})
    parts = [
        "# Entities\n", _table(
            ("counted as right", "precision", "recall", "f1"),
            [
                ("type and both ends", *_shown(exact(a, b, lambda e: True))),
                ("strict: and tags as the scheme writes them", *_shown(strict(true, found, scheme))),
                ("lenient: type and a word in common", *_shown(lenient(a, b))),
            ],
        ),
        "\n## By type\n", _table(
            ("type", "precision", "recall", "f1", "true"),
            [(kind, *_shown(exact(a, b, lambda e, kind=kind: e[0] == kind)), str(_count(a, kind))) for kind in types],  # type: ignore[misc]
        ),
        "\n## By length in words\n", _table(
            ("words", "precision", "recall", "f1", "true"), [_by_length(a, b, low, high) for low, high in LENGTHS]
        ),
        "\n## By length of the sentence in words\n", _table(
            ("words", "precision", "recall", "f1", "true", "sentences"),
            [_by_sentence([*map(len, words)], a, b, low, high) for low, high in SENTENCE_LENGTHS],
        ),
        "\n## Types found (columns) for true types (rows)\n", _matrix(confusion(a, b), types),
        f"\n## The {WORST} worst sentences\n", *_worst(words, a, b),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _valid(tags: Sequence[str], entity: tuple[str, int, int], scheme: str) -> bool:
    """Whether the tags of an entity are as the scheme writes it."""
    letters = "".join(parse(tag)[0] for tag in tags[entity[1] : entity[2]])
    return bool(re.fullmatch(STRICT.get(scheme, ".*"), letters))


def _count(found: Found, kind: str) -> int:
    return sum(e[0] == kind for own in found for e in own)


def _by_length(a: Found, b: Found, low: int, high: int | None) -> tuple[str, ...]:
    inside = lambda e: low <= e[2] - e[1] <= (high or e[2] - e[1])  # noqa: E731
    true = sum(inside(e) for own in a for e in own)
    return (f"{low}" if high else f"{low} and more", *_shown(exact(a, b, inside)), str(true))


def _by_sentence(sizes: Sequence[int], a: Found, b: Found, low: int, high: int | None) -> tuple[str, ...]:
    which = [i for i, size in enumerate(sizes) if low <= size <= (high or size)]
    own, found = ([one[i] for i in which] for one in (a, b))
    counts = (str(sum(map(len, own))), str(len(which)))
    return (f"{low} to {high}" if high else f"{low} and more", *_shown(exact(own, found, lambda e: True)), *counts)


def _shown(values: Iterable[float]) -> list[str]:
    return [f"{x:.4f}" for x in values]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in cells)


def _matrix(counts: Counter[tuple[str, str]], types: Sequence[str]) -> str:
    rows = [(kind or "none", *(str(counts[kind, other]) for other in (*types, ""))) for kind in (*types, "")]
    return _table(("", *types, "none"), rows)


def _worst(words: Sequence[Sequence[str]], a: Found, b: Found) -> list[str]:
    """The sentences with most wrong entities, each with what was missed and what was found instead."""
    wrong = [len({*x} ^ {*y}) for x, y in zip(a, b, strict=True)]
    found: list[str] = []
    for i in sorted(range(len(wrong)), key=lambda i: -wrong[i])[:WORST]:
        if wrong[i]:
            spell = lambda es, i=i: ", ".join(f"{k} {' '.join(words[i][s:e])!r}" for k, s, e in sorted(es)) or "none"  # noqa: E731
            found.append(f"{len(found) + 1}. {' '.join(words[i])}\n   * missed: {spell({*a[i]} - {*b[i]})}\n"
                         f"   * wrong: {spell({*b[i]} - {*a[i]})}")  # fmt: skip
    return found
