"""Reading files of columns: a word on each line with its tag, and an empty line after each sentence.

Which columns hold the words and the tags is told by their contents where it is not given (data/tagging/choice.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from jaxllm.data.tagging.choice import RANGE, Choice, Line, choose, holds_tags, is_header, is_tag, pairs_of
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Words, tags and line numbers of the sentences of a file, their documents, and the columns that they were in."""

    words: list[list[str]]
    tags: list[list[str]]
    lines: list[list[int]]
    documents: list[int]
    choice: Choice
    faults: dict[int, str]
    """Of sentences with a line that is not a word and its tag, by number: what is wrong with the first such line."""


def read_columns(
    name: str, text: str, word_column: str = "", tag_column: str = "", like: Choice | None = None
) -> Sentences:
    """The sentences of a file. name: for messages, which name file and line.

    word_column, tag_column: numbers from 1, or from the end (-1 is the last); or names, where the file has a header or
    is CoNLL-U; empty to tell them by their contents. like: the columns of another file of the data set, taken where
    this one has as many. Raises InputError where the columns cannot be told.
    """
    lines, comments = split_lines(text)
    width = width_of(lines)
    table = [line for line in lines if len(line.values) == width and not line.values[0].startswith("#")]
    table = table or [line for line in lines if len(line.values) == width]
    if like and like.width == width:
        choice = dataclasses.replace(like, header=is_header(table))
    elif width > 1:
        choice = choose(name, table, comments, word_column, tag_column)
    else:
        choice = Choice(width, 0, 0)
    known = {line.values[choice.tag] for line in table if width > 1}
    found = Sentences([], [], [], [], choice, {})
    sentence = -1
    for line in lines:
        values, number = line.values, line.number
        if choice.header and number == table[0].number:
            continue
        if values[0].startswith("#") and (len(values) != width or not is_tag(values[choice.tag], known)):
            continue  # a comment
        word, tag, fault = values[0], "O", ""
        if len(values) != width or width < 2 or (width == 2 and not values[0]):
            shown = "\t".join(values).strip(" \t")[:60]  # a no-break space is shown
            several = values[0] and width > 1
            fault = f"{len(values)} columns, elsewhere {width}, in {shown!r}" if several else f"{shown!r} alone"
            fault += "; each line needs a word and its tag"
        else:
            if choice.counts and RANGE.fullmatch(values[0]):
                continue
            word, tag = values[choice.word], values[choice.tag]
            for value, column, kind in ((word, choice.word, "word"), (tag, choice.tag, "tag")):
                fault = fault or ("" if value else f"column {column + 1} is empty; each line needs a {kind}")
            if choice.key:
                tag = pairs_of(tag).get(choice.key, "O")
        if width < 2:
            raise InputError(f"{name}, line {number}: {fault}")
        if line.sentence != sentence:
            sentence = line.sentence
            for part in (found.words, found.tags, found.lines):
                part.append([])
            found.documents.append(line.document)
        if fault:
            found.faults.setdefault(len(found.words) - 1, f"{name}, line {number}: {fault}")
        found.words[-1].append(word)
        found.tags[-1].append(tag)
        found.lines[-1].append(number)
    return found


def looks_like_columns(text: str) -> bool:
    """Whether a text, or the beginning of one, has columns of words and tags."""
    lines, _ = split_lines(text.rpartition("\n")[0] or text)
    width = width_of(lines)
    plain = [line for line in lines if not line.values[0].startswith("#")]
    table = [line for line in plain if len(line.values) == width]
    if width < 2 or not table or len(table) < 0.98 * len(plain):
        return False
    return holds_tags(table)


def split_lines(text: str) -> tuple[list[Line], list[str]]:
    """The lines that are not empty, split at tabs or else at spaces, and comments. Other white space may be a word.

    A document begins at a line of -DOCSTART- or `# newdoc`; in a file without, where more lines are empty than between
    most sentences.
    """
    lines = [line.rstrip(" \t\r") for line in text.split("\n")]
    begins = [bool(DOCUMENT.match(line)) for line in lines]
    lines = ["" if begun and not line.startswith("#") else line for line, begun in zip(lines, begins, strict=True)]
    filled = list(filter(None, lines))
    plain = [line for line in filled if not line.startswith("#")] or filled
    tabs = sum("\t" in line for line in plain) * 2 >= len(plain)
    split: Callable[[str], list[str]] = (
        (lambda line: line.split("\t")) if tabs else (lambda line: re.split(r"[ \t]+", line.lstrip(" \t")))
    )
    found: list[Line] = []
    empty = document = gap = 0
    usual = 0 if any(begins) else _usual_gap(lines)
    for number, line in enumerate(lines, start=1):
        document += begins[number - 1] or bool(line and found and usual and gap > usual)
        if line:
            found.append(Line(number, split(line), empty, document))
        empty, gap = (empty, 0) if line else (empty + 1, gap + 1)
    return found, [line for line in filled if line.startswith("#")]


DOCUMENT = re.compile(r"-DOCSTART-|\d+[ \t]+-DOCSTART-|# newdoc\b")
"""What a line that begins a document begins with: in CoNLL's files, with numbers of words before them, in CoNLL-U."""


def _usual_gap(lines: Sequence[str]) -> int:
    """The commonest number of empty lines between sentences."""
    gaps = Counter(sum(1 for _ in run) for filled, run in itertools.groupby(lines, bool) if not filled)
    return max(gaps, key=lambda gap: (gaps[gap], -gap), default=0)


def width_of(lines: Sequence[Line]) -> int:
    """The commonest number of columns, and of equally common ones the largest."""
    plain = [line for line in lines if not line.values[0].startswith("#")] or lines
    counts = Counter(len(line.values) for line in plain)
    return max(counts, key=lambda width: (counts[width], width), default=0)
