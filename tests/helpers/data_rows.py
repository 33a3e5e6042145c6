"""Rows given in a test: as if read from a file, written to one, or encoded as groups."""

import json

from jaxllm.data.files import Part
from jaxllm.data.preference.pairs import comparisons, encode
from jaxllm.data.sources import Rows


def rows_of(*rows, name="train.jsonl", lines=True, class_names=None):
    """Rows with a location each: "train.jsonl, line 2", or with lines=False "train.jsonl, row 2"."""
    return Rows([Part(name, list(rows), range(1, len(rows) + 1) if lines else (), class_names or {})])


def groups_of(tokenizer, *rows, max_length=100, cut="answer", **options):
    """Rows that compare answers as groups, and the report on them."""
    found, locations, report = comparisons(rows_of(*rows), **options)
    return encode(found, tokenizer, max_length, where=locations.__getitem__, report=report, cut=cut), report


def write_jsonl(path, rows):
    """Writes a line of JSON for each row, and returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
