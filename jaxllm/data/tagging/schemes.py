"""Recognising tagging schemes, by which tags like B-person mark where entities begin and end, and scoring entities.

| scheme | marks                                                                                       |
|--------|---------------------------------------------------------------------------------------------|
| IOB1   | I inside; B only where an entity follows another of its type                                |
| IOB2   | B on the first word, I on the others                                                        |
| IOE1   | I inside; E only where an entity is followed by another of its type                         |
| IOE2   | E on the last word, I on the others                                                         |
| IOBES  | B first, I inside, E last, S alone                                                          |
| BILOU  | B first, I inside, L last, U alone                                                          |
| BMES   | B first, M inside, E last, S alone                                                          |
| IO     | the entity type alone (person), without a letter                                            |

`entities` decides which words are an entity, for scores and for tagged text alike. Where tags are valid, it finds what
seqeval finds in strict mode. Tags out of order it accepts as seqeval's default mode does, and with it CoNLL's script
and the Hugging Face examples; scores of BILOU alone are strict, because seqeval's default mode does
not know its letters.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set

from jaxllm.data.report import BadRow, Report
from jaxllm.data.tagging.examples import Sentence
from jaxllm.types import InputError

SCHEMES: dict[str, str] = {
    "IOB1": "BI", "IOB2": "BI", "IOE1": "EI", "IOE2": "EI", "IOBES": "BEIS", "BILOU": "BILU", "BMES": "BEMS",
    "IO": "",
}  # fmt: skip
"""The letters of each scheme, beside O."""

SAME = {"BIO": "IOB2", "IOB": "IOB2", "BIOES": "IOBES", "BILUO": "BILOU", "BMEO": "BMES", "BMESO": "BMES"}
"""Other names of schemes."""

TAG = re.compile(r"([BIMELSU])(?:([-_])(\S.*))?")
"""A letter, and after a hyphen or an underscore the entity type: B-person, I_person."""

OUTSIDE = ("o", "0")
"""What is written for O by mistake."""

_RESPELT = re.compile(r"[bimelsu][-_]\S+|\S+[-_][BIMELSU]|\d+")


def parse(tag: str) -> tuple[str, str]:
    """Splits a tag into letter and entity type: ("B", "person") for B-person and B_person.

    "O" gives ("O", ""), and "B" alone ("B", "_"). A label without a letter is a type: "person" gives ("", "person").
    """
    if tag == "O":
        return "O", ""
    found = TAG.fullmatch(tag)
    return (found[1], found[3] or "_") if found else ("", tag)


def entities(tags: Sequence[str], *, strict: bool = False) -> list[tuple[str, int, int]]:
    """The entities of a tagged sentence: type, first word, and the word after the last.

    B, S and U begin an entity, and nothing continues one after E, L, S or U, so that E E of IOE2 are two. I, M, E, L
    and labels without a letter continue an entity of their type, and begin one where there is none. strict: only
    entities that are valid in BILOU, B I ... L or U alone, are found.
    """
    found: list[tuple[str, int, int]] = []
    start, before, kind_before = 0, "O", ""
    for i, (letter, kind) in enumerate(map(parse, [*tags, "O"])):
        if letter in ("I", "M", "E", "L", "") and kind == kind_before and before not in ("E", "L", "S", "U"):
            before = letter
            continue
        if before != "O" and not (strict and not _is_bilou(tags[start:i])):
            found.append((kind_before, start, i))
        start, before, kind_before = i, letter, kind
    return found


def _is_bilou(tags: Sequence[str]) -> bool:
    return bool(re.fullmatch("BI*L|U", "".join(parse(tag)[0] or "?" for tag in tags)))


def entity_types(labels: Sequence[str]) -> list[str]:
    """The entity types of labels, sorted."""
    return sorted({parse(label)[1] for label in labels if label != "O"})


def recognise(sentences: Sequence[Sentence], name: str | None = None) -> str:
    """The scheme of tagged sentences: `name` if given, otherwise the one that the tags follow.

    Where two schemes have the same letters and neither fits all tags, the one with fewer exceptions is taken. Raises
    InputError for an unknown name, and where all tags are spelt as no scheme spells them.
    """
    name = SAME.get(name or "", name)
    if name is not None and name not in SCHEMES:
        raise InputError(f"scheme {name!r} is unknown; choose of {', '.join(SCHEMES)}")
    scheme = name or _guess(sentences)
    if scheme == "IO" and not name:
        _check_types(sentences)
    return scheme


def of_scheme(sentences: Sequence[Sentence], scheme: str, report: Report) -> list[Sentence]:
    """The sentences whose tags are all of this scheme; others are counted in the report as bad in their content.

    Raises InputError that names file and line where too many are bad.
    """
    separators = Counter[str]()
    for tag, count in Counter(tag for sentence in sentences for tag in sentence.tags or ()).items():
        separators[_separator(tag)] += count
    separator = "_" if separators["_"] > separators["-"] else "-"
    known = ", ".join(["O", *([f"{x}{separator}type" for x in SCHEMES[scheme]] or ["type"])])

    @functools.cache
    def fits(tag: str) -> bool:
        letter, _ = parse(tag)
        right = letter in SCHEMES[scheme] and bool(letter) == (scheme != "IO") and _separator(tag) in ("", separator)
        return tag == "O" or (right and bool(tag))

    def fault(sentence: Sentence) -> BadRow | None:
        for i, tag in enumerate(sentence.tags or ()):
            if not fits(tag):
                message = f"{sentence.at(i)}: tag {tag!r} is not of {scheme}, which has {known}; mend the tag"
                return BadRow(message, f"with a tag not of {scheme}")
        return None

    return report.without_faults(sentences, fault)


def _check_types(sentences: Sequence[Sentence]) -> None:
    """Raises InputError where entity types are tags in another spelling: o, b-person, person-B, or class numbers."""
    places: dict[str, str] = {}
    for sentence in sentences:
        for i, tag in enumerate(sentence.tags or ()):
            if tag != "O" and tag not in places:
                places[tag] = sentence.at(i)
    outside, types = [tag for tag in places if tag in OUTSIDE], [tag for tag in places if tag not in OUTSIDE]
    if outside or all(map(_RESPELT.fullmatch, types)):
        tag = (outside or types)[0]
        wanted = "O" if outside else "B-type and I-type"
        raise InputError(f"{places[tag]}: tag {tag!r} is of no scheme; write {wanted}, or give --scheme IO")


def _separator(tag: str) -> str:
    found = TAG.fullmatch(tag)
    return (found[2] or "") if found else ""


def told_by(letters: Set[str]) -> tuple[str, str, str]:
    """What the letters of tags tell: the mark of an entity's edge (its start for IOB, its end for IOE), and the schemes
    that have it always, and only where an entity of its type adjoins. Other schemes are told by their letters alone."""
    if letters & {"L", "U"}:
        return "", "BILOU", "BILOU"
    if "M" in letters:
        return "", "BMES", "BMES"
    if "S" in letters or {"B", "E"} <= letters:
        return "", "IOBES", "IOBES"
    return ("E", "IOE2", "IOE1") if "E" in letters else ("B", "IOB2", "IOB1")


def _guess(sentences: Sequence[Sentence]) -> str:
    letters = {parse(tag)[0] for sentence in sentences for tag in sentence.tags or ()}
    if letters == {"O", ""}:
        return "IO"
    mark, always, adjoining = told_by(letters)
    bare = marked = 0
    for sentence in sentences:
        for (letter, kind), (beside_letter, beside) in _with_neighbour(sentence.tags or (), before=mark == "B"):
            adjoins = beside_letter != "O" and beside == kind
            bare += letter == "I" and not adjoins
            marked += letter == mark and not adjoins
    return adjoining if bare > marked else always


def _with_neighbour(tags: Sequence[str], *, before: bool) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    padded = [("O", ""), *map(parse, tags), ("O", "")]
    return zip(padded[1:-1], padded[:-2] if before else padded[2:], strict=True)


def score(true: list[list[str]], predicted: list[list[str]], scheme: str, types: Sequence[str]) -> dict[str, float]:
    """Scores predicted tags with seqeval, in [0, 1]; undefined scores are 0.

    true, predicted: tags per sentence. types: entity types to report in addition to those that occur.
    Returns f1, precision and recall over all entities (micro), accuracy per word, and for each type `<type>/f1`,
    `<type>/precision`, `<type>/recall` and `<type>/support` (the number of true entities).
    """
    from seqeval.metrics import accuracy_score, sequence_labeling  # 2 s: it brings scikit-learn

    numbers = {"accuracy": float(accuracy_score(true, predicted)) if any(true) else 0.0}
    strict = scheme == "BILOU"
    true, predicted = ([_as_iob2(line, strict=strict) for line in lines] for lines in (true, predicted))
    found = sorted({parse(tag)[1] for line in [*true, *predicted] for tag in line if tag != "O"})
    measure = functools.partial(sequence_labeling.precision_recall_fscore_support, true, predicted, zero_division=0)
    precision, recall, f1, _ = measure(average="micro")
    numbers |= {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
    for kind in sorted({*types, *found}):
        numbers |= {f"{kind}/{measured}": 0.0 for measured in ("f1", "precision", "recall", "support")}
    for kind, *values in zip(found, *measure(average=None), strict=True):
        named = zip(("precision", "recall", "f1", "support"), values, strict=True)
        numbers |= {f"{kind}/{measured}": float(x) for measured, x in named}
    return numbers


def _as_iob2(tags: Sequence[str], *, strict: bool) -> list[str]:
    """The entities as tags of IOB2, in which seqeval counts them for data of any scheme."""
    written = ["O"] * len(tags)
    for kind, start, end in entities(tags, strict=strict):
        written[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return written
