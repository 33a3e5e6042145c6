"""Evaluation of a token classifier: entity F1 by seqeval, on whole sentences."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jaxllm.data.packing import Location
from jaxllm.data.tagging import schemes
from jaxllm.data.tagging.examples import Sentence, Windows, stitch
from jaxllm.evals.decoding import crf_losses, crf_of, decide, find_chain, words_of
from jaxllm.evals.ner_report import lenient, strict, write_report
from jaxllm.run.folder import whole_file
from jaxllm.types import Batch, InputError, Numbers

Batches = Iterable[tuple[Batch, list[Location]]]


def predict(model: Any, batch: Batch) -> dict[str, jax.Array]:
    """The likeliest label (int32), its probability and the target's negative log-probability in nats, each [B, T]."""
    found = predict_all(model, batch)
    logps_BTV = found.pop("logps")
    return {"label": logps_BTV.argmax(-1).astype(jnp.int32), "score": jnp.exp(logps_BTV.max(-1)), **found}


def predict_all(model: Any, batch: Batch) -> dict[str, jax.Array]:
    """log p of each label in nats, [B, T, V], and `predict`'s nll, [B, T]."""
    logps_BTV = label_logps(model, batch)["logps"]
    return {"logps": logps_BTV, "nll": -jnp.take_along_axis(logps_BTV, batch.targets_BT[..., None], -1)[..., 0]}


def label_logps(model: Any, batch: Batch) -> dict[str, jax.Array]:
    """The log-probabilities of the labels in nats, [B, T, V]."""
    hidden_BTD, _ = model.hidden(batch)
    return {"logps": jax.nn.log_softmax(model.head(hidden_BTD).astype(jnp.float32))}


def outputs(
    model: Any, windows: Windows, batches: Batches, compute: Callable[[Any, Batch], dict[str, jax.Array]] = predict
) -> dict[str, list[np.ndarray]]:
    """The arrays [B, T, ...] that `compute` gives of a model and a batch for each window, over its positions, by name.

    Raises ValueError where the batches do not hold every window.
    """
    lengths = [len(example.tokens) for example in windows.examples]
    found: collections.defaultdict[str, list[Any]] = collections.defaultdict(lambda: [None] * len(lengths))
    computed, located = itertools.tee(batches)
    arrays_of = model.map(compute, (batch for batch, _ in computed))
    for arrays, (_, locations) in zip(arrays_of, located, strict=True):
        for example, row, start in locations:
            for name, array_BT in arrays.items():
                found[name][example] = np.asarray(array_BT[row, start : start + lengths[example]])
    if missing := max((sum(array is None for array in one) for one in found.values()), default=len(lengths)):
        raise ValueError(f"the batches lack {missing} of {len(lengths)} windows")
    return found


def evaluator(
    windows: Windows,
    sentences: Sequence[Sentence],
    labels: Sequence[str],
    scheme: str,
    batches: Batches,
    *,
    predictions: Path | None = None,
    decode: str = "",
) -> Callable[[Any], dict[str, float]]:
    """A function of a model that scores its tags of `sentences`, which `windows` encode and `batches` hold.

    It returns f1, precision, recall (micro, over entities) and accuracy (over words) as fractions of 1, strict_f1 and
    lenient_f1 (ner_report.py), loss (nats per word that has tokens), and per entity type `<type>/f1`,
    `<type>/precision`, `<type>/recall`, `<type>/support`.
    A word without tokens counts as predicted "O". decode: as for `decoding.find_chain`; where it gives a chain, tags
    are its best path, and the loss is the CRF's where there is one. predictions: a file to write each time, a JSON line
    per sentence with tokens, tags, predicted and scores (the probability of what was predicted, 0 for a word without
    tokens); and beside it report.md (for predictions-dev.jsonl, report-dev.md), with what was wrong.
    Raises InputError for sentences without tags.
    """
    for sentence in sentences:
        if sentence.tags is None:
            raise InputError(f"{sentence.where}: no tags; give them as 'ner_tags' to evaluate")
    true = [list(sentence.tags or ()) for sentence in sentences]
    types = schemes.entity_types(labels)
    number_of = {label: number for number, label in enumerate(labels)}

    def evaluate(model: Any) -> dict[str, float]:
        chain = find_chain(getattr(model, "params", {}), labels, scheme, decode)
        found = outputs(model, windows, batches, predict if chain is None else predict_all)
        if chain is None:
            labelled, scores = stitch(windows, found["label"]), stitch(windows, found["score"])
        else:
            whole, there = words_of(windows, found["logps"], len(labels))
            labelled, scores = decide(whole, there, chain)
        predicted = [[labels[i] for i in numbers] for numbers in labelled]
        numbers = schemes.score(true, predicted, scheme, types)
        entities = ([schemes.entities(tags) for tags in lines] for lines in (true, predicted))
        numbers |= {"strict_f1": strict(true, predicted, scheme)[2], "lenient_f1": lenient(*entities)[2]}
        weights = [example.weights for example in windows.examples]
        total = sum(float(nll @ weight) for nll, weight in zip(found["nll"], weights, strict=True))
        if chain is not None and (learned := crf_of(model.params)):
            targets = [np.array([number_of[tag] for tag in tags], np.int64) for tags in true]
            total = float(crf_losses(whole, there, targets, learned).sum())
        numbers["loss"] = total / max(1.0, sum(float(weight.sum()) for weight in weights))
        if predictions is not None and jax.process_index() == 0:
            _write(predictions, sentences, predicted, scores)
            page = write_report([sentence.words for sentence in sentences], true, predicted, scheme)
            predictions.with_name(predictions.stem.replace("predictions", "report") + ".md").write_text(page, "utf-8")
        return numbers

    kinds = tuple(f"{kind}/{name}" for kind in types for name in ("f1", "precision", "recall", "support"))
    evaluate.numbers = ("f1", "strict_f1", "lenient_f1", "precision", "recall", "accuracy", "loss", *kinds)  # type: ignore[attr-defined]
    return evaluate


def _write(path: Path, sentences: Sequence[Sentence], predicted: list[list[str]], scores: list[np.ndarray]) -> None:
    with whole_file(path) as file:
        for sentence, tags, score in zip(sentences, predicted, scores, strict=True):
            rounded = [round(float(x), 6) for x in score]
            line = {"tokens": sentence.words, "tags": sentence.tags, "predicted": tags, "scores": rounded}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def table(numbers: Numbers) -> Table:
    """The numbers of an evaluation as a table for the terminal: a row per entity type, then the total."""
    more = (f"{name.replace('_', ' ')} {numbers[name]:.4f}" for name in ("accuracy", "loss", "strict_f1", "lenient_f1"))
    shown = Table(caption=", ".join(more))
    shown.add_column("entity")
    for name in ("f1", "precision", "recall", "support"):
        shown.add_column(name, justify="right")
    kinds = sorted(name.removesuffix("/support") for name in numbers if name.endswith("/support"))
    for kind in kinds:
        support = f"{numbers[f'{kind}/support']:.0f}"
        shown.add_row(kind, *(f"{numbers[f'{kind}/{name}']:.4f}" for name in ("f1", "precision", "recall")), support)
    shown.add_section()
    support = f"{sum(numbers[f'{kind}/support'] for kind in kinds):.0f}"
    shown.add_row("all", *(f"{numbers[name]:.4f}" for name in ("f1", "precision", "recall")), support)
    return shown
