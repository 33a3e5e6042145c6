"""Text to be tagged, from files and standard input: a sentence on each line, or columns as CoNLL's."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxllm.data.tagging.choice import RANGE, find_words, is_header
from jaxllm.data.tagging.columns import DOCUMENT, looks_like_columns, split_lines, width_of
from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tagging.spans import WORD
from jaxllm.types import InputError

FORMATS = ("lines", "conll")
"""A sentence on each line; columns with a word on each line, and an empty line after each sentence."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A sentence as it was read: its text, the words in it by [start, end), and the lines that it stood on.

    lines: each with the number of its word, or None for one without (empty, a comment). Of running text there are none.
    document, left, right: as of a Sentence.
    """

    text: str
    spans: list[tuple[int, int]]
    lines: list[tuple[str, int | None]] = dataclasses.field(default_factory=list)
    document: Any = None
    left: Sequence[str] = ()
    right: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.spans]

    def sentence(self, where: str) -> Sentence:
        """The words to be encoded."""
        return Sentence(self.words, None, where, document=self.document, left=self.left, right=self.right)


def running(text: str, document: Any = None) -> Line:
    """A sentence of running text."""
    return Line(text, [match.span() for match in WORD.finditer(text)], document=document)


def read_lines(name: str, lines: Iterable[bytes], kind: str = "", word_column: str = "") -> Iterator[Line]:
    """The sentences of a file. name: for messages. kind: one of FORMATS; by default its first lines tell.

    word_column: of columns, as in `columns.read_columns`. Raises InputError for what is not UTF-8, and for columns
    without words, naming the line.
    """
    texts = _decoded(name, lines)
    beginning = list(itertools.islice(texts, 200))
    texts = itertools.chain(beginning, texts)
    if kind == "conll" or (not kind and looks_like_columns("\n".join(beginning))):
        return _columns(name, "\n".join(texts), word_column)
    return _paragraphs(name, texts)


def _paragraphs(name: str, texts: Iterable[str]) -> Iterator[Line]:
    """A sentence on each line; an empty line ends a document."""
    document = 0
    for text in texts:
        document += not text.strip()
        yield running(text, (name, document))


def _decoded(name: str, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{name}, line {number}: not UTF-8; convert it to UTF-8") from None
        yield text.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")


def _columns(name: str, text: str, word_column: str) -> Iterator[Line]:
    lines, comments = split_lines(text)
    width = width_of(lines)
    table = [line for line in lines if len(line.values) == width and not line.values[0].startswith("# ")]
    if not table:
        raise InputError(f"{name}: holds no words; check the file")
    column = find_words(name, table, comments, word_column)
    values, documents = ({line.number: getattr(line, x) for line in table} for x in ("values", "document"))
    header = table[0].number if is_header(table) else 0
    document, words, held = 0, list[str](), list[tuple[str, int | None]]()
    for number, raw in enumerate(text.split("\n"), start=1):
        own = values.get(number)
        if own and number != header and not RANGE.fullmatch(own[0]) and own[column]:
            document = documents[number]
            held.append((raw, len(words)))
            words.append(own[column])
            continue
        if raw.strip() and number not in values and not raw.startswith("#") and not DOCUMENT.match(raw):
            raise InputError(f"{name}, line {number}: not {width} columns, as elsewhere, in {raw.strip()[:60]!r}")
        held.append((raw, None))
        if not raw.strip() and words:
            yield _joined(words, held, (name, document))
            words, held = [], []
    if words or any(raw for raw, _ in held):
        yield _joined(words, held, (name, document))


def _joined(words: list[str], lines: list[tuple[str, int | None]], document: Any) -> Line:
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    spans = [(end - len(word) - 1, end - 1) for word, end in zip(words, ends, strict=True)]
    return Line(" ".join(words), spans, lines, document)
