"""Flags and data of the script that classifies texts: from a data set to texts, labels, weights and a problem."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from jaxllm.data.builtin import requests
from jaxllm.data.labelled.columns import find_columns, recognise
from jaxllm.data.labelled.examples import targets_of
from jaxllm.data.labelled.rows import Reader, Text, names_in, without_unseen
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.losses import Loss
from jaxllm.models.heads import PROBLEMS
from jaxllm.recipes.flags import Common
from jaxllm.recipes.help import DATA, LOSS, flag
from jaxllm.recipes.losses import named_loss
from jaxllm.recipes.rows import Split, check, held_out_line, hold_out, lines_of, open_rows
from jaxllm.types import InputError, check_one_of, nearest

LOSSES = {"single": "cross_entropy", "multi": "binary_cross_entropy", "regression": "mse"}
"""The loss of each problem where none is named."""


@dataclasses.dataclass(frozen=True)
class LabelledFlags(Common):
    """Flags of the script that trains on texts with labels."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder or file of rows with a text (`text`, `sentence` ...) or two (`premise` and `hypothesis`,
    `question1` and `question2` ...) and a label; or `builtin` for an embedded corpus."""
    columns: str = ""
    """Names for columns that are not recognised, as in text=body,pair=answer,label=stars; label=a+b+c for one column of
    0 and 1 per label. By default none."""
    problem: str = ""
    """single (one label), multi (any number of labels) or regression (a number); by default told by the labels."""
    holdout: float = 0.1
    """Share of a data set without a dev split to evaluate on, taken at even distances; 0 for none."""
    loss: str = ""
    """Name of a loss of tokens for one label, of texts for others, or FILE.py:FUNCTION; by default cross_entropy,
    binary_cross_entropy or mse, by the problem."""
    class_weights: tuple[str, ...] = flag((), LOSS)
    """Weights of the classes in the loss as LABEL=WEIGHT, 1 for those not named; or balanced, inversely to how often
    they occur in training. By default all 1."""


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Texts by split (train, and dev and test where there are any), with all their labels."""

    splits: dict[str, Split[Text]]
    labels: tuple[str, ...]
    problem: str
    weights_V: np.ndarray
    """float32: how much each class counts."""
    lines: list[tuple[str, str]]
    """Lines that describe the data, for the header."""

    def targets(self, split: str) -> np.ndarray:
        """The targets of a split, unweighed."""
        return targets_of(self.splits[split].rows, self.labels, self.problem)

    def training_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """The targets of train, and the weight of each of its texts: several labels are weighed in the targets."""
        targets = self.targets("train")
        if self.problem == "single":
            return targets, self.weights_V[targets]
        weighed = targets * self.weights_V if self.problem == "multi" else targets
        return weighed.astype(np.float32), np.ones(len(targets), np.float32)


def read_labelled(config: LabelledFlags) -> LabelledData:
    """Reads and checks the data set, and holds out texts where there is no dev split. Raises InputError."""
    check(config.holdout)
    check_one_of("--problem", config.problem, ("", *PROBLEMS))
    rows = open_rows(config, requests.requests)
    train = rows["train"]
    columns = find_columns(train[0], train.where(0), config.columns)
    problem = config.problem or recognise((row.get(columns.labels[0]) for row in train), len(columns.labels))
    reader = Reader.of(train, columns, problem)
    reports = {name: Report(max_bad_rows=config.max_bad_rows) for name in rows}
    read, notes = dict[str, list[Text]](), []
    for name, part in rows.items():
        if name != "train" and not _has_labels(part, reader):
            notes.append(("", f"{name}: no labels, so it is not scored"))
            continue
        read[name] = reader.read(part, reports[name])
    labels = _labels(reader, read, train)
    for name in read:
        if name != "train" and problem != "regression":
            read[name] = without_unseen(read[name], labels, reports[name])
    splits = {name: Split(part, [one.where for one in part], reports[name]) for name, part in read.items() if part}
    held = hold_out(splits, config.holdout)
    _check_classes(problem, labels, held["train"], splits["train"])
    if "dev" not in splits:
        notes.append(held_out_line(held, config.holdout, "texts"))
    lines = [*lines_of(held, "texts"), *notes, ("task", f"{_KINDS[problem].format(len(labels))}, {columns.describe()}")]
    return LabelledData(held, labels, problem, _weights(config, problem, labels, held["train"].rows), lines)


_KINDS = {"single": "one of {} labels", "multi": "any of {} labels", "regression": "a number"}


def _has_labels(rows: Rows, reader: Reader) -> bool:
    """Whether a split has a label that is not null or -1, which hub data sets write for hidden ones."""
    return any(row.get(name) not in (None, "", -1) for row in rows for name in reader.columns.labels)


def _labels(reader: Reader, read: dict[str, list[Text]], train: Rows) -> tuple[str, ...]:
    """The labels in the order of the logits: that of the data set's class names, or sorted."""
    if reader.problem == "regression":
        return (reader.columns.labels[0],)
    found = names_in(read["train"])
    named = [name for name in reader.names if name not in found]
    if named:
        where = train.where(0).rpartition(", ")[0]
        raise InputError(
            f"{where}: class {named[0]!r}, which {', '.join(reader.columns.labels)} lists, has no example in train "
            f"({len(named)} such); add one, or leave the class out"
        )
    if len(found) < 2 and reader.problem == "single":
        raise InputError(f"{read['train'][0].where}: every row of train has the label {found[0]!r}; give two or more")
    if not found:
        raise InputError(f"{read['train'][0].where}: no row of train has a label; give some")
    return reader.names or tuple(found)


def _check_classes(problem: str, labels: tuple[str, ...], train: Split[Text], whole: Split[Text]) -> None:
    """Raises InputError for a class of which all examples are held out, naming one of them."""
    if problem == "regression":
        return
    gone = set(labels) - set(names_in(train.rows))
    for text in whole.rows:
        if lost := sorted(gone & ({text.label} if isinstance(text.label, str) else {*text.label})):  # type: ignore[misc]
            fault = f"class {lost[0]!r} has no example left in train, for its rows are held out as dev"
            raise InputError(f"{text.where}: {fault}; give another --holdout, or a dev split")


def _weights(config: LabelledFlags, problem: str, labels: tuple[str, ...], train: list[Text]) -> np.ndarray:
    """The weight of each class. balanced: texts / (classes x texts of the class); of several labels, negatives to
    positives (scikit-learn's and torch's `pos_weight`'s conventions)."""
    weights, given = np.ones(len(labels), np.float32), config.class_weights
    if given and problem == "regression":
        raise InputError("--class-weights: numbers have no classes; leave it out")
    if given == ("balanced",):
        counts = Counter(name for text in train for name in names_in([text]))
        n = np.array([counts[label] for label in labels], np.float32)
        return (len(train) / (len(labels) * n) if problem == "single" else np.maximum(len(train) - n, 1) / n).astype(
            np.float32
        )
    for text in given:
        label, _, value = text.rpartition("=")
        if label not in labels:
            raise InputError(f"--class-weights {text}: give balanced, or LABEL=WEIGHT; {nearest(label, labels)}")
        try:
            weights[labels.index(label)] = float(value)
        except ValueError:
            raise InputError(f"--class-weights {text}: {value!r} is no number") from None
        if not 0 < weights[labels.index(label)] < np.inf:
            raise InputError(f"--class-weights {text}: give a finite weight above 0")
    return weights


def check_pairs(trained: bool | None, text: Text) -> None:
    """Raises InputError for one text where a model was trained on pairs of them, and the other way.

    trained: `pairs` of the model's configuration.
    """
    if trained not in (None, text.pair is not None):
        has, wants = ("one text", "pairs of texts") if trained else ("a pair of texts", "single texts")
        raise InputError(f"{text.where}: {has}, and the model was trained on {wants}; give it these, or another model")


def find_loss(config: LabelledFlags, problem: str) -> Loss:
    """The loss that --loss names, or that of the problem. Raises InputError for one of another kind."""
    loss = named_loss(dataclasses.replace(config, loss=config.loss or LOSSES[problem]))
    wanted = "tokens" if problem == "single" else "texts"
    if loss.kind not in (wanted, ""):
        what = "one label per text" if problem == "single" else _KINDS[problem].format("several")
        raise InputError(f"--loss {config.loss} is no loss for {what}: give {LOSSES[problem]} or one of {wanted}")
    return loss
