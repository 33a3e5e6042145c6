"""Encoding tagged sentences as examples for a token classifier.

A sentence over the maximum length is cut into overlapping windows, each an example. The label of a word is trained on,
and predicted, in the one window where the word has most context.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from jaxllm.data.chat.columns import ColumnsRead
from jaxllm.data.report import BadRow, Report, check_text, convert_each
from jaxllm.data.sources import Row, Rows
from jaxllm.data.tagging.spans import has_spans, read_spans
from jaxllm.data.tagging.windows import Body, Windows, cut, stitch, tokenize, widen
from jaxllm.types import InputError

__all__ = ["Sentence", "Text", "Windows", "encode", "encode_text", "label_set", "sentences", "stitch"]


TAG_COLUMNS = ("ner_tags", "tags", "labels")
"""The columns of tags; the first that a row has is read."""


DOCUMENT_COLUMNS = ("document", "document_id", "doc_id", "doc")
"""The columns that tell documents apart; the first that a row has is read."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Words and their tags (None where untagged), and their locations in the data, for messages.

    document: the same for neighbouring sentences of one document. left, right: the words before and after it there
    that the model sees beside it (`context.in_context`).
    """

    words: list[str]
    tags: list[str] | None
    where: str
    word_where: Callable[[int], str] | None = dataclasses.field(default=None, compare=False, repr=False)
    document: Any = dataclasses.field(default=None, compare=False)
    left: Sequence[str] = ()
    right: Sequence[str] = ()

    def at(self, word: int) -> str:
        """The location of a word, counted from 0, for messages."""
        return self.word_where(word) if self.word_where else f"{self.where}, word {word + 1}"


def sentences(rows: Rows) -> list[Sentence]:
    """The sentences of rows with `tokens` (strings) and, if tagged, `ner_tags`, `tags` or `labels`.

    Tags are names, or numbers if the rows have class names. Raises InputError that names the row.
    """
    return [_sentence(row, i, rows) for i, row in enumerate(rows)]


def usable_sentences(rows: Rows, report: Report) -> list[Sentence]:
    """The sentences of rows as `sentences` reads them, without those that are bad in their content.

    Left out, and counted in the report, are rows without words, with words or tags that are null, with another number
    of tags than of words, and with lines of another number of columns than the file's. Columns that nothing reads are
    in the report too. Raises InputError for a row of the wrong structure, and where too many are bad.
    """

    columns = ColumnsRead()

    def usable(numbered: tuple[int, Row], where: str) -> Sentence:
        row = columns.open(numbered[1], where)
        sentence = _sentence(row, numbered[0], rows)
        columns.close(row, "")
        if not sentence.words:
            raise BadRow(f"{where}: no words; leave the row out", "without words")
        return sentence

    found, _ = convert_each(enumerate(rows), usable, rows.where, report)
    columns.tell(report)
    return found


def _sentence(row: Row, i: int, rows: Rows) -> Sentence:
    if fault := rows.fault(i):
        raise BadRow(fault, "with a line that is not a word and its tag")
    named = next((row[name] for name in DOCUMENT_COLUMNS if row.get(name) is not None), None)
    where, word_where, document = rows.where(i), functools.partial(rows.where, i), (rows.file(i), named)
    if has_spans(row):
        read, tagged = read_spans(row, where)
        return Sentence(read, tagged, where, word_where, document if named is not None else (*document, i))
    words = row.get("tokens")
    if not isinstance(words, list) or not _each_is(words, str, type(None)):
        fault = "'tokens' must be a list of strings; give the words of the sentence, or the name as --word-column"
        raise InputError(f"{rows.where(i)}: {fault}")
    if None in words:
        fault = f"{rows.where(i, words.index(None))}: no word (null); give each tag a word"
        raise BadRow(fault, "with a word that is null")
    check_text(words, where, "words")
    column = next((name for name in TAG_COLUMNS if row.get(name) is not None), None)
    tags = _tags(row[column], column, len(words), i, rows) if column else None
    return Sentence(words, tags, where, word_where, document)


def _each_is(values: list[Any], *kinds: type) -> bool:
    return all(issubclass(found, kinds) for found in {*map(type, values)})


def _tags(tags: Any, column: str, words: int, i: int, rows: Rows) -> list[str]:
    if not isinstance(tags, list):
        raise InputError(f"{rows.where(i)}: {column} that are no list for {words} tokens; give one tag to each word")
    if len(tags) != words:
        fault = f"{len(tags)} {column} for {words} tokens; give one tag to each word"
        raise BadRow(f"{rows.where(i)}: {fault}", "with another number of tags than of words")
    if None in tags:
        fault = f"no tag (null) in {column}; give the word a tag, O outside entities"
        raise BadRow(f"{rows.where(i, tags.index(None))}: {fault}", "with a tag that is null")
    if _each_is(tags, str):
        return tags
    return [_name(tag, rows.class_names.get(column), f"{rows.where(i, j)}: {column}") for j, tag in enumerate(tags)]


def _name(tag: Any, names: Sequence[str] | None, location: str) -> str:
    if not isinstance(tag, int) or isinstance(tag, bool):
        raise InputError(f"{location} hold {tag!r}; tags are all names, or all numbers of classes")
    if not names:
        raise InputError(f"{location} are numbers and nothing names their classes; give names, such as B-person")
    if not 0 <= tag < len(names):
        raise InputError(f"{location} hold {tag}, and the classes are 0 to {len(names) - 1}; mend the tag")
    return names[tag]


def label_set(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """The labels of tagged sentences: "O", which is class 0, then the others sorted."""
    for sentence in sentences:
        if sentence.tags is None:
            fault = "no tags; give them as 'ner_tags', or their name as --tag-column"
            raise InputError(f"{sentence.where}: {fault}, to train or evaluate")
    return ("O", *sorted({tag for sentence in sentences for tag in sentence.tags or ()} - {"O"}))


def without_unseen(sentences: Sequence[Sentence], known: Collection[str], report: Report) -> list[Sentence]:
    """The sentences of a split whose tags are all known, from training; others are counted in the report as bad."""

    def fault(sentence: Sentence) -> BadRow | None:
        for i, tag in enumerate(sentence.tags or ()):
            if tag not in known:
                message = f"{sentence.at(i)}: label {tag!r} is unseen in training; add examples or mend the tag"
                return BadRow(message, "with a label unseen in training")
        return None

    return report.without_faults(sentences, fault)


def encode(
    sentences: Sequence[Sentence], tokenizer: Any, labels: Sequence[str], max_length: int, context: int = 0
) -> Windows:
    """Examples of at most `max_length` tokens, special tokens included, cut between words.

    context: the most tokens of the words to the left of each sentence, and of those to its right, that its windows
    have beside it where there is room (Schweter and Akbik 2020, FLERT, section 2.1); they are neither trained on nor
    predicted.

    tokenizer: a fast tokenizer of transformers. Targets are label numbers with weight 1 on the first sub-word of each
    word in its window, and 0 elsewhere; all weights are 0 for untagged sentences. A word without tokens is in no
    window; a word longer than a window loses its last sub-words. Raises InputError for a tag that is not among the
    labels, naming its location, and for a `max_length` that is too small.
    """
    number_of = {label: number for number, label in enumerate(labels)}
    windows = Windows([], [], [], [], [len(sentence.words) for sentence in sentences])
    seen = [[*one.left, *one.words, *one.right] if context else one.words for one in sentences]
    encodings = tokenize(_as_in_text(seen, tokenizer), tokenizer, split=True)
    for number, (sentence, encoding) in enumerate(zip(sentences, encodings, strict=True)):
        for i, tag in enumerate(sentence.tags or ()):
            if tag not in number_of:
                raise InputError(f"{sentence.at(i)}: label {tag!r} is unseen in training; add examples or mend the tag")
        body = Body.of(encoding, max_length)
        before = len(sentence.left) if context else 0
        word_ids = encoding.word_ids  # each access makes the list
        words = np.asarray([word_ids[i] for i in body.at.tolist()], np.int64) - before
        starts = _starts(words)
        if len(words) > body.room:  # a single word may be longer than a window
            fits = np.arange(len(words)) - np.repeat(starts, np.diff(starts, append=len(words))) < body.room
            body, words = dataclasses.replace(body, tokens=body.tokens[fits]), words[fits]
            starts = _starts(words)
        first, last = np.searchsorted(words, [0, len(sentence.words)]).tolist()
        starts = starts[(starts >= first) & (starts < last)]
        for low, high, units in cut(starts - first, last - first, body.room):
            answered = words[starts[units]]
            span = widen(low + first, high + first, len(words), body.room, context)
            example, positions = body.example(*span, starts[units])
            if sentence.tags is not None:
                example.targets[positions] = [number_of[sentence.tags[word]] for word in answered]
                example.weights[positions] = 1
            windows.append(example, number, answered, positions)
    return windows


def _starts(words: np.ndarray) -> np.ndarray:
    """Where a word begins, of the number of the word of each token."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(words)), bool), words[1:] != words[:-1]]))


def _as_in_text(words: list[list[str]], tokenizer: Any) -> list[list[str]]:
    """Puts a space before each word if the tokenizer needs it to encode words as it does in running text.

    Byte-level tokenizers like RoBERTa's need it, unless they are loaded with `add_prefix_space=True`.
    """
    running, apart = tokenize(["a a"], tokenizer, split=False), tokenize([["a", "a"]], tokenizer, split=True)
    if running[0].ids == apart[0].ids:
        return words
    return [[f" {word}" if word else word for word in sentence] for sentence in words]


@dataclasses.dataclass(frozen=True)
class Text:
    """A raw text and its tokens: ids and [start, end) characters (int32 [n], [n, 2]), without special tokens."""

    text: str
    ids: np.ndarray
    offsets: np.ndarray


def encode_text(texts: Sequence[str], tokenizer: Any, max_length: int) -> tuple[Windows, list[Text]]:
    """Windows over raw texts, each token in one of them, and the tokens. Targets and weights are 0.

    A text that fits is tokenized as in transformers' pipeline, which sees only the beginning of a longer one.
    """
    windows, tokenized = Windows([], [], [], [], []), []
    for number, (text, encoding) in enumerate(zip(texts, tokenize(list(texts), tokenizer, split=False), strict=True)):
        body = Body.of(encoding, max_length)
        tokenized.append(Text(text, body.tokens, np.asarray(encoding.offsets, np.int32).reshape(-1, 2)[body.at]))
        windows.counts.append(len(body.tokens))
        for low, high, units in cut(np.arange(len(body.tokens)), len(body.tokens), body.room):
            example, positions = body.example(low, high, units)
            windows.append(example, number, units, positions)
    return windows, tokenized
