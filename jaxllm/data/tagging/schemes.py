"""Recognising tagging schemes, by which tags like B-person mark where entities begin and end, and scoring entities.

| scheme | marks                                                                                       |
|--------|---------------------------------------------------------------------------------------------|
| IOB1   | I inside; B only where an entity follows another of its type                                |
| IOB2   | B on the first word, I on the others                                                        |
| IOE1   | I inside; E only where an entity is followed by another of its type                         |
| IOE2   | E on the last word, I on the others                                                         |
| IOBES  | B first, I inside, E last, S alone                                                          |
| BILOU  | B first, I inside, L last, U alone                                                          |

seqeval scores the entities in its default mode, which accepts tags out of order, as CoNLL's script and the Hugging Face
examples do. BILOU is scored in strict mode, because the default mode does not know its letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxllm.data.tagging.examples import Sentence
from jaxllm.types import InputError

SCHEMES: dict[str, str] = {"IOB1": "BI", "IOB2": "BI", "IOE1": "EI", "IOE2": "EI", "IOBES": "BEIS", "BILOU": "BILU"}
"""The letters of each scheme, beside O."""


def parse(tag: str) -> tuple[str, str]:
    """Splits a tag into letter and entity type: ("B", "person"); "O" gives ("O", ""), and "B" alone ("B", "_")."""
    letter, dash, kind = tag.partition("-")
    return letter, (kind if dash else "_" if letter != "O" else "")


def entity_types(labels: Sequence[str]) -> list[str]:
    """The entity types of labels, sorted."""
    return sorted({parse(label)[1] for label in labels if label != "O"})


def recognise(sentences: Sequence[Sentence], name: str | None = None) -> str:
    """The scheme of tagged sentences: `name` if given, otherwise the one that the tags follow. Checks every tag.

    Where two schemes have the same letters and neither fits all tags, the one with fewer exceptions is taken. Raises
    InputError for an unknown name, and for a tag that is not in the scheme, naming its file and line.
    """
    if name is not None and name not in SCHEMES:
        raise InputError(f"scheme {name!r} is unknown; choose of {', '.join(SCHEMES)}")
    name = name or _guess(sentences)
    for sentence in sentences:
        for i, tag in enumerate(sentence.tags or ()):
            letter, kind = parse(tag)
            if tag != "O" and (len(letter) != 1 or letter not in SCHEMES[name] or not kind):
                known = ", ".join(["O", *(f"{letter}-type" for letter in SCHEMES[name])])
                raise InputError(f"{sentence.at(i)}: tag {tag!r} is not of {name}, which has {known}; mend the tag")
    return name


def _guess(sentences: Sequence[Sentence]) -> str:
    letters = {parse(tag)[0] for sentence in sentences for tag in sentence.tags or ()}
    if letters & {"L", "U"}:
        return "BILOU"
    if "S" in letters or {"B", "E"} <= letters:
        return "IOBES"
    # An entity's edge (its start for IOB, its end for IOE) carries the mark always, or only where its own type adjoins.
    mark, always, adjoining = ("E", "IOE2", "IOE1") if "E" in letters else ("B", "IOB2", "IOB1")
    bare = marked = 0
    for sentence in sentences:
        for (letter, kind), (beside_letter, beside) in _with_neighbour(sentence.tags or (), before=mark == "B"):
            adjoins = beside_letter != "O" and beside == kind
            bare += letter == "I" and not adjoins
            marked += letter == mark and not adjoins
    return adjoining if bare > marked else always


def _with_neighbour(tags: Sequence[str], *, before: bool) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    parsed, outside = [parse(tag) for tag in tags], [("O", "")]
    return zip(parsed, outside + parsed[:-1] if before else parsed[1:] + outside, strict=True)


def score(true: list[list[str]], predicted: list[list[str]], scheme: str, types: Sequence[str]) -> dict[str, float]:
    """Scores predicted tags with seqeval, in [0, 1]; undefined scores are 0.

    true, predicted: tags per sentence. types: entity types to report in addition to those that occur.
    Returns f1, precision and recall over all entities (micro), accuracy per word, and for each type `<type>/f1`,
    `<type>/precision`, `<type>/recall` and `<type>/support` (the number of true entities).
    """
    from seqeval.metrics import accuracy_score, sequence_labeling, v1  # 2 s: it brings scikit-learn
    from seqeval.scheme import BILOU

    if scheme == "BILOU":
        found = v1.unique_labels(true, predicted, BILOU)
        options = {"zero_division": 0, "scheme": BILOU}
        measure = v1.precision_recall_fscore_support
    else:
        tags = (sequence_labeling.get_entities(tags) for tags in (true, predicted))
        found = sorted({kind for entities in tags for kind, _, _ in entities})
        options = {"zero_division": 0}
        measure = sequence_labeling.precision_recall_fscore_support

    precision, recall, f1, _ = measure(true, predicted, average="micro", **options)
    numbers = {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
    numbers["accuracy"] = float(accuracy_score(true, predicted)) if any(true) else 0.0
    for kind in sorted({*types, *found}):
        numbers |= {f"{kind}/{measured}": 0.0 for measured in ("f1", "precision", "recall", "support")}
    for kind, *values in zip(found, *measure(true, predicted, average=None, **options), strict=True):
        named = zip(("precision", "recall", "f1", "support"), values, strict=True)
        numbers |= {f"{kind}/{measured}": float(x) for measured, x in named}
    return numbers
