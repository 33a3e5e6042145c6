"""The documents that the flags of a script name, for the scripts that train on text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxllm.data.text.documents import Documents, open_documents, parse_weight
from jaxllm.data.text.token_cache import Corpus
from jaxllm.recipes.rows import check
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Texts:
    """Documents by data set, and the weights of those to train on."""

    train: list[Documents]
    weights: list[float]
    dev: list[Documents]


def read_texts(config: Any) -> Texts:
    """Finds the data sets that a script's flags name; no text is read yet. Raises InputError."""
    check(config.holdout)
    if not config.dataset:
        raise InputError("--dataset is empty: name a file, folder or hub id, or builtin")
    named = [parse_weight(dataset) for dataset in config.dataset]
    holdout = 0.0 if config.eval_dataset else config.holdout
    opened = [open_documents(name, holdout, config.max_bad_rows, config.split) for name, _ in named]
    held_out = [open_documents(config.eval_dataset, 0.0, config.max_bad_rows)] if config.eval_dataset else opened
    dev = [splits["dev"] for splits in held_out if "dev" in splits]
    if config.eval_dataset and not dev:  # a lone file
        dev = [held_out[0]["train"]]
    return Texts([splits["train"] for splits in opened], [weight for _, weight in named], dev)


def lines_of(train: Sequence[Corpus], dev: Sequence[Corpus]) -> list[tuple[str, str]]:
    """Lines that describe the corpora, for the header: their sizes, rows left out, and columns that nothing reads."""
    lines = [("train", corpus.describe()) for corpus in train] + [("dev", corpus.describe()) for corpus in dev]
    lines += [("", f"{corpus.name}: {line}") for corpus in (*train, *dev) for line in corpus.report.lines()]
    if not dev:
        lines.append(("dev", "none: too few documents to hold one out; name an --eval-dataset"))
    unread = summary_of([*train, *dev])["columns_not_read"]
    return lines + ([("", f"columns not read: {', '.join(unread)}")] if unread else [])


def summary_of(corpora: Sequence[Corpus]) -> dict[str, Any]:
    """For summary.json: documents by corpus, the locations of rows left out by reason, and columns not read."""
    return {
        "rows": {corpus.name: len(corpus.ends) for corpus in corpora},
        "dropped": {corpus.name: corpus.report.dropped for corpus in corpora if corpus.report.dropped},
        "columns_not_read": list(dict.fromkeys(column for corpus in corpora for column in corpus.report.unread)),
    }
