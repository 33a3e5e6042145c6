"""Which columns of a file hold the words and which the tags, told by their contents or by what a flag names.

A first column that counts from 0 or 1 in each sentence is not the words. A column of tags holds O and B-person, or
other tags of a scheme; where several do, phrase chunks (B-NP) give way, and otherwise one must be named. CoNLL-U keeps
tags in its last column, `name=B-person|...`, where the tag column is called by the key, `name`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from jaxllm.types import InputError

WORDS = ("word", "words", "token", "tokens", "form", "text")
TAGS = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "ne", "entity", "bio", "iob")
"""Names of columns in a first line that is a header, in lower case."""

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")

CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}
"""The phrases of CoNLL-2000, which CoNLL-2003 gives beside the entities."""

_TAG = re.compile(r"O|[BIMELSU]([-_]\S+)?")
RANGE = re.compile(r"\d+[-.]\d+")  # of CoNLL-U: 1-2, a word of several tokens; 8.1, a word that is not in the text


@dataclasses.dataclass(frozen=True)
class Choice:
    """The columns of words and tags in lines of `width` columns, counted from 0; key: of CoNLL-U's last column."""

    width: int
    word: int
    tag: int
    key: str = ""
    counts: bool = False  # the first column numbers the words
    header: bool = False

    def describe(self) -> str:
        """ "word 1, tag 4 of 4 columns"."""
        tag = f"tag {self.key!r} in column {self.tag + 1}" if self.key else f"tag {self.tag + 1}"
        return f"word {self.word + 1}, {tag} of {self.width} columns"


@dataclasses.dataclass(frozen=True)
class Line:
    """The columns of a line, its number, and the number of empty lines before it, which tells its sentence.

    document: the number of its document in the file, of which there is one where nothing tells them apart.
    """

    number: int
    values: list[str]
    sentence: int
    document: int = 0


def choose(name: str, table: Sequence[Line], comments: Sequence[str], word_column: str, tag_column: str) -> Choice:
    """The columns of lines of one width. Arguments as of `read_columns`; comments: lines that begin with #.

    Raises InputError where several columns or none could be the tags, and for flags that name none.
    """
    width = len(table[0].values)
    header = is_header(table)
    names = _names(table, comments, header)
    table = table[header:] or table
    counts = _counts(table)
    key = ""
    if tag_column:
        tag, key = _named(name, "--tag-column", tag_column, names, table)
    else:
        tag, key = _find_tags(name, table, names, counts)
    if word_column:
        word, _ = _named(name, "--word-column", word_column, names, table)
    else:
        free = [i for i in range(counts, width) if i != tag or key]
        word = next((i for i in free if names[i : i + 1] and names[i].lower() in WORDS), free[0] if free else 0)
    if word == tag:
        raise InputError(f"{name}: column {word + 1} cannot hold both words and tags; give another --word-column")
    return Choice(width, word, tag, key, counts, header)


def find_words(name: str, table: Sequence[Line], comments: Sequence[str], word_column: str) -> int:
    """The column of the words in lines of one width that may have no tags, counted from 0. Arguments as of `choose`."""
    names = _names(table, comments, is_header(table))
    if word_column:
        return _named(name, "--word-column", word_column, names, table)[0]
    called = (i for i, one in enumerate(names) if one.lower() in WORDS)
    return next(called, int(len(table[0].values) > 1 and _counts(table)))


def _names(table: Sequence[Line], comments: Sequence[str], header: bool) -> list[str]:
    """The names of the columns: of a header, of the line that CoNLL-U Plus begins with, or those of CoNLL-U."""
    for line in comments:
        if line.startswith("# global.columns"):
            return line.partition("=")[2].split()
    if header:
        return table[0].values
    return list(CONLLU) if len(table[0].values) == len(CONLLU) and _counts(table) else []


def is_header(table: Sequence[Line]) -> bool:
    """Whether the first line names the columns."""
    values = [value.lower() for value in table[0].values] if table else []
    return any(value in WORDS for value in values) and any(value in TAGS for value in values)


def _named(name: str, flag: str, given: str, names: Sequence[str], table: Sequence[Line]) -> tuple[int, str]:
    """The column that a flag names by number, by the name in the header or by a key of CoNLL-U's last column."""
    width = len(table[0].values)
    if re.fullmatch(r"-?\d+", given):
        number = int(given)
        if not 1 <= abs(number) <= width:
            raise InputError(f"{flag} {given}: {name} has {width} columns; give 1 to {width}, or -1 for the last")
        return (number - 1 if number > 0 else width + number), ""
    lower = [one.lower() for one in names]
    if given.lower() in lower:
        return lower.index(given.lower()), ""
    keys = Counter(key for line in table for key in pairs_of(line.values[-1]))
    if flag == "--tag-column" and given in keys:
        return width - 1, given
    known = f"the columns {', '.join(names)}" if names else f"columns 1 to {width}, without names"
    last = f", and in the last one the keys {', '.join(list(keys)[:8])}" if keys else ""
    raise InputError(f"{flag} {given}: {name} has {known}{last}; give one of them")


def holds_tags(table: Sequence[Line]) -> bool:
    """Whether lines of one width, a header aside, have a column that could be the tags."""
    width = len(table[0].values)
    rows = table[is_header(table) :]
    is_conllu = width == len(CONLLU) and _counts(rows)
    return bool(rows) and bool(_tag_columns(rows, width) or _label_columns(rows, width) or is_conllu)


def _find_tags(name: str, table: Sequence[Line], names: Sequence[str], counts: bool) -> tuple[int, str]:
    """The column of the tags, and the key in it for CoNLL-U. Raises InputError where several or none could be."""
    width = len(table[0].values)
    if width == 2:
        first, second = (_looks_tagged(line.values[i] for line in table) for i in (0, 1))
        return (0 if first and not second else 1), ""
    found = [i for i in _tag_columns(table, width) if not (counts and i == 0)]
    filled = [i for i in found if any(line.values[i] != "O" for line in table)]
    found = filled or found
    if len(found) > 1:
        found = [i for i in found if not _are_chunks(line.values[i] for line in table)] or found
    if len(found) > 1:
        called = [i for i in found if i < len(names) and names[i].lower() in TAGS]
        found = called if len(called) == 1 else found
    if len(found) > 1:
        listed = " and ".join(f"{_call(i, names)} ({_examples(line.values[i] for line in table)})" for i in found)
        flags = " or ".join(f"--tag-column {i + 1}" for i in found)
        raise InputError(f"{name}: each of the columns {listed} holds tags; give {flags}")
    if found:
        return found[0], ""
    keys = _tag_keys(table)
    if len(keys) == 1:
        return width - 1, keys[0]
    labels = [i for i in _label_columns(table, width) if i >= counts]
    if labels and not keys:
        return labels[-1], ""
    if names == list(CONLLU) or keys:
        held = ", ".join(keys or list(Counter(key for line in table for key in pairs_of(line.values[-1])))[:8])
        raise InputError(
            f"{name}: CoNLL-U without a column of tags; MISC has "
            + (f"{held}: give one as --tag-column" if held else "none: give a file that has entities")
        )
    return width - 1, ""


def _call(column: int, names: Sequence[str]) -> str:
    return f"{column + 1}" + (f" {names[column]}" if column < len(names) else "")


def _examples(values: Iterable[str]) -> str:
    return ", ".join(list(dict.fromkeys(value for value in values if value != "O"))[:2]) or "O"


def _counts(table: Sequence[Line]) -> bool:
    """Whether the first of three columns or more counts the words of each sentence, from 0 or 1."""
    expected, sentence, seen = 0, -1, 0
    for line in table:
        value = line.values[0]
        if len(line.values) < 3 or not (value.isascii() and value.isdigit()):
            if RANGE.fullmatch(value):
                continue
            return False
        if line.sentence != sentence:
            sentence, expected = line.sentence, min(int(value), 1)
        if int(value) != expected:
            return False
        expected, seen = expected + 1, seen + 1
    return seen > 1


def _looks_tagged(values: Iterable[str]) -> bool:
    """Whether nine in ten of the values are tags of a scheme, of which there are at least two."""
    listed = list(values)
    return sum(bool(_TAG.fullmatch(value)) for value in listed) >= 0.9 * len(listed)


def _tag_columns(table: Sequence[Line], width: int) -> list[int]:
    return [i for i in range(width) if _looks_tagged(line.values[i] for line in table)]


def _label_columns(table: Sequence[Line], width: int) -> list[int]:
    """Columns after the first of few labels without a letter, O among them: person, O."""
    found = []
    for i in range(1, width):
        values = Counter(line.values[i] for line in table)
        plain = all(re.fullmatch(r"[^\W\d][\w.-]*", value) for value in values)
        if "O" in values and plain and len(values) <= max(2, len(table) // 2):
            found.append(i)
    return found


def _are_chunks(values: Iterable[str]) -> bool:
    return {value[2:] for value in values if value != "O"} <= CHUNKS


def is_tag(value: str, known: set[str]) -> bool:
    """Whether a value is a tag of a scheme, or one of those known."""
    return value in known or bool(_TAG.fullmatch(value))


def pairs_of(value: str) -> dict[str, str]:
    """The pairs of CoNLL-U's last column: {"name": "B-person"} for name=B-person|SpaceAfter=No without the others."""
    return dict(pair.split("=", 1) for pair in value.split("|") if "=" in pair)


def _tag_keys(table: Sequence[Line]) -> list[str]:
    """The keys of CoNLL-U's last column whose values are tags, some of them not O."""
    values: dict[str, list[str]] = {}
    for line in table:
        for key, value in pairs_of(line.values[-1]).items():
            values.setdefault(key, []).append(value)
    return [key for key, found in values.items() if _looks_tagged(found) and set(found) != {"O"}]
