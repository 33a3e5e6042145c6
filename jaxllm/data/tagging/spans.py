"""Texts with entities as spans of characters, as annotation tools export them, turned into words and IOB2 tags.

| tool         | a row                                                                                  |
|--------------|----------------------------------------------------------------------------------------|
| doccano      | text, and label, labels or entities: [[start, end, label], ...] or start_offset, ...   |
| Label Studio | data.text, and annotations (the first) with results of value.start, end and labels; or |
|              | the short form, text and label: [{start, end, labels}, ...]                            |
| spaCy        | text and ents: [{start, end, label}], as Doc.to_json gives it; [text, {entities}]      |
| Prodigy      | text and spans: [{start, end, label}, ...]                                             |

spaCy 2's documents of paragraphs have tags (BILOU) and no spans: `sentences_of`.

Ends are exclusive, in characters. Words are cut as `python -m jaxllm tag` cuts running text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxllm.data.report import BadRow, check_text
from jaxllm.types import InputError

WORD = re.compile(r"\w+|[^\w\s]")
"""How running text is cut into words."""

COLUMNS = ("entities", "spans", "ents", "label", "labels")
"""The columns of spans beside `text`; the first that a row has as a list is read."""


def has_spans(row: Mapping[str, Any]) -> bool:
    """Whether a row is a text with spans, and not words with tags."""
    tokens = row.get("tokens")  # spaCy and Prodigy have the places of theirs
    if not isinstance(tokens, list):
        return "tokens" not in row
    return any(isinstance(x, Mapping) for x in tokens if not isinstance(x, str))


def sentences_of(rows: Iterable[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Rows of words and tags from the documents of spaCy 2's JSON: paragraphs, sentences, tokens of orth and ner.

    where: the file, for messages. Raises InputError for a token without either.
    """
    found = []
    for number, row in enumerate(rows):
        for paragraph in row["paragraphs"]:
            for sentence in paragraph["sentences"]:
                tokens = sentence["tokens"]
                if not all(isinstance(token.get(name), str) for token in tokens for name in ("orth", "ner")):
                    raise InputError(f"{where}, document {number + 1}: a token without 'orth' and 'ner'; give it both")
                words, tags = ([token[name] for token in tokens] for name in ("orth", "ner"))
                found.append({"tokens": words, "ner_tags": tags, "document": row.get("id", number)})
    return found


def read_spans(row: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
    """The words of a row and their tags. where: the row, for messages.

    Raises BadRow for spans that overlap or nest, cut a word, hold none, or lie outside the text; InputError for a row
    without text or spans, or whose spans have another form.
    """
    text, spans = _parts(row, where)
    check_text(text, where, "text")
    words = [match.span() for match in WORD.finditer(text)]
    tags = ["O"] * len(words)
    before: tuple[int, int, str] | None = None
    for start, end, label in sorted(_each(spans, where)):
        shown = f"{label} {start}-{end}"
        if not 0 <= start < end <= len(text):
            fault = f"{where}: the span {shown} lies outside the text of {len(text)} characters; mend it"
            raise BadRow(fault, "with a span outside the text")
        if before and start < before[1]:
            fault = f"{where}: the spans {before[2]} {before[0]}-{before[1]} and {shown} overlap; keep one of them"
            raise BadRow(fault, "with spans that overlap")
        inside = [i for i, (a, b) in enumerate(words) if a < end and b > start]
        if cut := [i for i in inside if words[i][0] < start or words[i][1] > end]:
            word = text[slice(*words[cut[0]])]
            raise BadRow(f"{where}: the span {shown} cuts the word {word!r}; mend it", "with a span that cuts a word")
        if not inside:
            raise BadRow(f"{where}: the span {shown} holds no word; mend it", "with a span without words")
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{label}"
        before = start, end, label
    return [text[a:b] for a, b in words], tags


def _parts(row: Mapping[str, Any], where: str) -> tuple[str, list[Any]]:
    """The text and the spans of a row of any tool."""
    data = row.get("data")
    if isinstance(data, Mapping) and isinstance(row.get("annotations"), list):
        texts = [x for x in (data.get("text"), *data.values()) if isinstance(x, str)]
        results = row["annotations"][0].get("result", []) if row["annotations"] else []
        if texts:
            return texts[0], [one["value"] for one in results if "labels" in one.get("value", {})]
    column = next((name for name in COLUMNS if isinstance(row.get(name), list)), None)
    if not isinstance(row.get("text"), str) or column is None:
        known = ", ".join(row)
        raise InputError(
            f"{where}: no 'tokens' among {known}; give the words of the sentence, or the name as --word-column, or "
            f"'text' with 'entities' of start, end and label"
        )
    return row["text"], row[column]


def _each(spans: list[Any], where: str) -> Iterator[tuple[int, int, str]]:
    for span in spans:
        if isinstance(span, Mapping):
            named = span.get("label", span.get("labels"))
            ends = [span.get(name, span.get(f"{name}_offset")) for name in ("start", "end")]
            values = [*ends, named[0] if isinstance(named, list) and len(named) == 1 else named]
        else:
            values = list(span) if isinstance(span, list | tuple) else []
        if len(values) != 3 or not all(type(x) is int for x in values[:2]) or not isinstance(values[2], str):
            raise InputError(f"{where}: {str(span)[:60]} is no span; give start, end and one label")
        yield values[0], values[1], values[2]
