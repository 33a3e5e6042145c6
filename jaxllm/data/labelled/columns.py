"""Which columns of a row hold the text, the second text of a pair and the label, and what kind of label it is."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxllm.data.chat.columns import parse_columns, shown_columns
from jaxllm.types import InputError

PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
    ("text_a", "text_b"), ("sentence_A", "sentence_B"), ("question", "sentence"), ("question", "passage"),
    ("question", "context"), ("query", "passage"), ("query", "document"), ("text", "text_pair"), ("text", "pair"),
)  # fmt: skip
TEXTS = (
    "text", "sentence", "content", "review", "comment", "tweet", "document", "body", "utterance", "question", "query",
    "title",
)  # fmt: skip
LABELS = (
    "label", "labels", "gold_label", "target", "class", "category", "score", "similarity_score", "stars", "rating",
    "sentiment", "emotion", "intent", "topic", "coarse_label", "relatedness_score",
)  # fmt: skip
"""Names of columns, in the order in which they are looked for."""

NAMES = ("text", "pair", "label")
"""The names that `--columns` gives; label=a+b+c names several columns of 0 and 1, one per label."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that are read; pair: "" for single texts; labels: one, or one of 0 and 1 per label."""

    text: str
    pair: str
    labels: tuple[str, ...]

    def describe(self) -> str:
        """ "premise and hypothesis, labelled by label"."""
        texts = f"{self.text} and {self.pair}" if self.pair else self.text
        return f"{texts}, labelled by {', '.join(self.labels)}" if self.labels else texts


def find_columns(row: Mapping[str, Any], where: str, named: str = "", *, labelled: bool = True) -> Columns:
    """The columns of a data set, told by their names in its first row, or as `--columns` names them.

    labelled: whether there must be a label. Raises InputError that names the columns that there are.
    """
    given = parse_columns(named, NAMES)
    labels = tuple(given["label"].split("+")) if "label" in given else ()
    wanted = [*(given[name] for name in ("text", "pair") if name in given), *labels]
    if lacking := [column for column in wanted if column not in row]:
        raise InputError(f"{where}: --columns names {', '.join(lacking)}, and {shown_columns(row)}")
    text, pair = given.get("text", ""), given.get("pair", "")
    if not text:
        both = next((two for two in PAIRS if all(name in row for name in two)), None)
        if both and not pair:
            text, pair = both
        text = text or next((name for name in TEXTS if name in row and name != pair), "")
    if not text:
        raise InputError(f"{where}: no column of texts; {shown_columns(row)}; name it by --columns text=COLUMN")
    if not labels:
        labels = tuple(name for name in LABELS if name in row and name not in (text, pair))[:1]
    if not labels and labelled:
        raise InputError(f"{where}: no column of labels; {shown_columns(row)}; name it by --columns label=COLUMN")
    return Columns(text, pair, labels)


def recognise(values: Iterable[Any], columns: int = 1) -> str:
    """What the labels of a training split are: single, multi or regression (the keys of `heads.PROBLEMS`).

    columns: how many columns they are in. Lists are multi; numbers with a point, of most rows, are regression.
    """
    kinds = dict.fromkeys(("single", "multi", "regression"), 0)
    for value in values:
        if isinstance(listed(value) if isinstance(value, str) else value, list | tuple):
            kinds["multi"] += 1
        elif value is not None and value != "":
            text = isinstance(value, str) and "." in value and number(value) is not None
            kinds["regression" if text or isinstance(value, float) else "single"] += 1
    return "multi" if columns > 1 else max(kinds, key=lambda kind: kinds[kind])


def listed(value: str) -> Any:
    """The list that a text of a .csv writes as JSON, or else the text."""
    try:
        return json.loads(value) if value.startswith("[") else value
    except ValueError:
        return value


def number(value: Any) -> float | None:
    """A finite number, also as a text; None for anything else."""
    try:
        found = float(value) if isinstance(value, numbers.Real | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def is_multi_hot(values: Sequence[Any], names: Sequence[str] | None) -> bool:
    """Whether lists say of every label whether it applies (0 or 1), and are not lists of numbers of classes."""
    sizes = {len(value) for value in values}
    binary = all(x in (0, 1) and not isinstance(x, str) for value in values for x in value)
    if len(sizes) != 1 or not binary or sizes == {0}:
        return False
    repeated = any(len(set(map(float, value))) < len(value) for value in values)
    return repeated or sizes == {len(names or ())} or any(isinstance(x, float) for value in values for x in value)
