"""Evaluation and use of a classifier of texts: scores by scikit-learn and SciPy, predictions, what is confused."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from jaxllm.data.labelled.rows import Text
from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import Example, Location, make_plan
from jaxllm.distributed.mesh import row_multiple
from jaxllm.run.folder import whole_file
from jaxllm.types import Batch, Numbers

MAIN = {
    "single": ("accuracy", "macro_f1", "micro_f1", "matthews", "loss"),
    "multi": ("accuracy", "macro_f1", "micro_f1", "loss"),
    "regression": ("pearson", "spearman", "loss"),
}
"""The numbers of an evaluation, beside those of each label. accuracy of several labels: of all of them at once."""

PARTS = ("f1", "precision", "recall", "support")
SHOWN = 20
"""Most classes of which the confusion matrix is printed and drawn."""


def _logits(model: Any, batch: Batch) -> jax.Array:
    return model.head(model.hidden(batch)[0])


def logits_of(model: Any, examples: Sequence[Example], batches: Iterable[tuple[Batch, list[Location]]]) -> np.ndarray:
    """The logits of each example at the token that is read, float32 [N, V]. batches: of all examples."""
    at = [int(np.argmax(example.weights)) for example in examples]
    found: list[Any] = [None] * len(examples)
    computed, located = itertools.tee(batches)
    logits = model.map(_logits, (batch for batch, _ in computed))
    for logits_BTV, (_, locations) in zip(logits, located, strict=True):
        for example, row, start in locations:
            found[example] = np.asarray(logits_BTV[row, start + at[example]], np.float32)
    return np.stack(found)


def classify(model: Any, examples: Sequence[Example], batch_size: int = 64) -> np.ndarray:
    """`logits_of` for a `Runner`, in batches made here."""
    size = min(batch_size, len(examples))
    plan = make_plan(lengths(examples), batch_size=size, multiple=row_multiple(model.mesh))
    return logits_of(model, examples, EvalBatches(examples, plan))


def scores_of(logits_NV: np.ndarray, problem: str) -> np.ndarray:
    """Probabilities of labels, or numbers as they are, float64 [N, V], as transformers' pipeline computes them."""
    x_NV = logits_NV.astype(np.float64)
    if problem == "regression":
        return x_NV
    if problem == "multi":
        return np.exp(-np.logaddexp(0, -x_NV))
    p_NV = np.exp(x_NV - x_NV.max(-1, keepdims=True))
    return p_NV / p_NV.sum(-1, keepdims=True)


def answer(scores_V: np.ndarray, labels: Sequence[str], problem: str) -> dict[str, Any]:
    """What is predicted for one text: label and score; labels, each above a half; or a number as `score`."""
    if problem == "regression":
        return {"score": round(float(scores_V[0]), 6)}
    named = {label: round(float(x), 6) for label, x in zip(labels, scores_V, strict=True)}
    if problem == "multi":
        return {"labels": [label for label, x in named.items() if x > 0.5], "scores": named}
    best = int(np.argmax(scores_V))
    return {"label": labels[best], "score": named[labels[best]], "scores": named}


def evaluator(
    texts: Sequence[Text],
    examples: Sequence[Example],
    targets: np.ndarray,
    labels: Sequence[str],
    problem: str,
    batches: Iterable[tuple[Batch, list[Location]]],
    *,
    predictions: Path | None = None,
) -> Callable[[Any], dict[str, float]]:
    """A function of a model that scores it on texts, whose targets `targets_of` gives. batches: of all examples.

    It returns the numbers of MAIN: loss in nats (cross entropy, or binary cross entropy by label), or the mean squared
    error; correlations and Matthews' are 0 where either side is constant; and per label `<label>/f1`, `/precision`,
    `/recall`, `/support`. predictions: a file to write, a JSON line per text.
    """

    def evaluate(model: Any) -> dict[str, float]:
        logits_NV = logits_of(model, examples, batches)
        if predictions is not None and jax.process_index() == 0:
            write(predictions, texts, logits_NV, labels, problem)
        return measure(logits_NV, targets, labels, problem)

    parts = [] if problem == "regression" else [f"{label}/{part}" for label in labels for part in PARTS]
    evaluate.numbers = (*MAIN[problem], *parts)  # type: ignore[attr-defined]
    return evaluate


def measure(logits_NV: np.ndarray, targets: np.ndarray, labels: Sequence[str], problem: str) -> dict[str, float]:
    """The numbers that `evaluator` describes."""
    from sklearn import metrics

    wide_NV = logits_NV.astype(np.float64)
    if problem == "regression":
        return _correlations(wide_NV[:, 0], targets[:, 0].astype(np.float64))
    if problem == "multi":
        true, predicted = targets > 0, wide_NV > 0
        loss = np.mean(np.logaddexp(0, np.where(true, -wide_NV, wide_NV)))
    else:
        true, predicted = targets, np.argmax(wide_NV, axis=1)
        loss = np.mean(np.logaddexp.reduce(wide_NV, axis=1) - wide_NV[np.arange(len(true)), true])
    found = {"accuracy": metrics.accuracy_score(true, predicted)}
    for average in ("macro", "micro"):
        found[f"{average}_f1"] = metrics.f1_score(true, predicted, average=average, zero_division=0)
    if problem == "single":
        found["matthews"] = metrics.matthews_corrcoef(true, predicted)
    found["loss"] = loss
    each = metrics.precision_recall_fscore_support(true, predicted, labels=range(len(labels)), zero_division=0)
    precision, recall, f1, support = each
    for name, x in (("f1", f1), ("precision", precision), ("recall", recall), ("support", support)):
        found |= {f"{label}/{name}": x[i] for i, label in enumerate(labels)}
    return {name: float(x) for name, x in found.items()}


def _correlations(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    from scipy import stats

    found = {"pearson": 0.0, "spearman": 0.0, "loss": float(np.mean(np.square(predicted - true)))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant numbers, for which it gives nan
        if len(true) > 1:
            for name, measured in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
                value = float(measured(predicted, true).statistic)
                found[name] = value if np.isfinite(value) else 0.0
    return found


def write(path: Path, texts: Sequence[Text], logits_NV: np.ndarray, labels: Sequence[str], problem: str) -> None:
    """Writes a JSON line per text: text, pair, label, and `answer` under "predicted"."""
    with whole_file(path) as file:
        for text, scores_V in zip(texts, scores_of(logits_NV, problem), strict=True):
            pair = {} if text.pair is None else {"pair": text.pair}
            line = {"text": text.text, **pair, "label": text.label, "predicted": answer(scores_V, labels, problem)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def confusion(predictions: Path, labels: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix of a file of predictions with one label each: rows are true labels, columns predicted."""
    number_of = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        counts[number_of[row["label"]], number_of[row["predicted"]["label"]]] += 1
    return {"labels": list(labels), "counts": counts.tolist()}


def confusion_table(matrix: dict[str, Any]) -> Table:
    """The confusion matrix for the terminal; of more than SHOWN classes the pairs that are confused most."""
    labels, counts = matrix["labels"], np.asarray(matrix["counts"])
    if len(labels) > SHOWN:
        shown = Table("label", "taken for", "texts", title="confused most", title_justify="left")
        wrong = counts - np.diag(np.diag(counts))
        for at in np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]:
            row, column = np.unravel_index(at, wrong.shape)
            if wrong[row, column]:
                shown.add_row(labels[row], labels[column], str(wrong[row, column]))
        return shown
    shown = Table("label \\ predicted", *labels)
    for label, row in zip(labels, counts, strict=True):
        shown.add_row(label, *map(str, row))
    return shown


def table(numbers: Numbers, problem: str, labels: Sequence[str]) -> Table:
    """The numbers of an evaluation for the terminal: a row per label, then the whole."""
    caption = ", ".join(f"{name} {numbers[name]:.4f}" for name in MAIN[problem])
    shown = Table("label", *PARTS, caption=caption)
    for label in labels if problem != "regression" else ():
        values = [numbers[f"{label}/{part}"] for part in PARTS]
        shown.add_row(label, *(f"{x:.4f}" for x in values[:-1]), f"{values[-1]:.0f}")
    return shown
