"""Flags and data of the script that trains on tagged words: from a data set to sentences, labels and a scheme."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path

from jaxllm.data.builtin import ner as builtin
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.data.tagging import schemes
from jaxllm.data.tagging.context import in_context
from jaxllm.data.tagging.examples import TAG_COLUMNS, Sentence, label_set, usable_sentences, without_unseen
from jaxllm.data.tagging.load import load_tagged
from jaxllm.recipes.flags import Common
from jaxllm.recipes.help import DATA
from jaxllm.recipes.rows import Split, check, held_out_line, hold_out, open_rows, report_lines
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class TaggedFlags(Common):
    """Flags of the script that trains on tagged words."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file of tagged sentences: rows with `tokens` and `ner_tags`, or with `text` and
    `entities` (spans, as annotation tools export them), or columns of words and tags (as CoNLL's, under any file name);
    or `builtin` for an embedded corpus."""
    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on, taken at even distances; 0 for none."""
    scheme: str = ""
    """Scheme of the tags: IOB1, IOB2, IOE1, IOE2, IOBES, BILOU, BMES or IO; by default recognised from the tags."""
    word_column: str = ""
    """Column of the words: a number from 1, or from the end (-1 is the last), or a name; by default found."""
    tag_column: str = ""
    """Column of the tags, as --word-column; of CoNLL-U, the key in MISC. By default found."""
    document_context: int = 0
    """Tokens to the left of each sentence, and to its right, of its document that the model sees with it (FLERT has
    64). Documents are told by -DOCSTART-, `# newdoc`, wider gaps or a column `document`; without, each file is one."""


@dataclasses.dataclass(frozen=True)
class Tagged:
    """Sentences by split (train, and dev and test where there are any), their labels and scheme."""

    splits: dict[str, Split[Sentence]]
    labels: tuple[str, ...]
    scheme: str
    lines: list[tuple[str, str]]
    """Lines that describe the data, for the header."""


def read_tagged(config: TaggedFlags) -> Tagged:
    """Reads and checks the data set, and holds out sentences where there is no dev split."""
    check(config.holdout)
    if config.document_context < 0:
        raise InputError(f"--document-context {config.document_context}: give 0 or more tokens")

    def load(dataset: str, split: str) -> dict[str, Rows]:
        return load_tagged(dataset, config.word_column, config.tag_column, split)

    rows = open_rows(config, builtin.ner, load)
    reports = {name: Report(max_bad_rows=config.max_bad_rows) for name in rows}
    found = {name: usable_sentences(part, reports[name]) for name, part in rows.items()}
    scheme = schemes.recognise(found["train"], config.scheme or None)
    found = {name: schemes.of_scheme(part, scheme, reports[name]) for name, part in found.items()}
    reports["train"].require_rows()
    labels = label_set(found["train"])
    others = [name for name in found if name != "train"]
    for name in others:
        label_set(found[name])  # each has tags
    classes = rows["train"].class_names
    listed = set(next((classes[name] for name in TAG_COLUMNS if name in classes), ()))
    labels = _more_labels(labels, scheme, listed, (sentence for name in others for sentence in found[name]))
    for name in others:
        found[name] = without_unseen(found[name], labels, reports[name])
    found = {name: list(in_context(one, config.document_context)) for name, one in found.items() if one}
    splits = {name: Split(part, [one.where for one in part], reports[name]) for name, part in found.items()}
    held = hold_out(splits, config.holdout)
    return Tagged(held, labels, scheme, _lines(config, rows, held, labels, scheme, splits))


def _more_labels(
    labels: tuple[str, ...], scheme: str, listed: set[str], sentences: Iterable[Sentence]
) -> tuple[str, ...]:
    """The labels, with those of other splits that are listed in the classes, or are of the scheme and a known type."""
    types = {label[1:] for label in labels if schemes.parse(label)[0] in schemes.SCHEMES[scheme]}  # "-person"
    more = {tag for sentence in sentences for tag in sentence.tags or ()} - {*labels}
    known = {tag for tag in more if tag in listed or (tag[:1] in schemes.SCHEMES[scheme] and tag[1:] in types)}
    return ("O", *sorted({*labels, *known} - {"O"}))


def _lines(
    config: TaggedFlags,
    rows: dict[str, Rows],
    splits: dict[str, Split[Sentence]],
    labels: tuple[str, ...],
    scheme: str,
    given: Collection[str],
) -> list[tuple[str, str]]:
    """How many sentences each split has, the files it comes from, what was held out and what was left out."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    lines = [("data", f"{sizes} sentences, {len(labels)} labels, {scheme}")]
    if config.dataset != "builtin":
        lines.append(("", "; ".join(f"{name}: {_files(part)}" for name, part in rows.items())))
    if config.document_context:
        counts = (f"{len({one.document for one in split.rows}):,} in {name}" for name, split in splits.items())
        lines.append(("", f"context of {config.document_context} tokens a side; documents: {', '.join(counts)}"))
    if "dev" not in given:
        lines.append(held_out_line(splits, config.holdout, "sentences"))
    return lines + report_lines(splits)


def _files(rows: Rows) -> str:
    """The files of a split, and the columns in them: "train.txt (word 1, tag 4 of 4 columns)"."""
    named = [Path(part.name).name + (f" ({part.columns.describe()})" if part.columns else "") for part in rows.parts]
    return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
