"""From `--dataset` and `--eval-dataset` to rows by split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.cli.common import Common
from jaxllm.data import files, sources
from jaxllm.data.sources import Rows
from jaxllm.types import InputError

Embedded = Callable[[], Mapping[str, Sequence[dict[str, Any]]]]
"""The corpus that `--dataset builtin` means: rows by split."""


def open_rows(config: Common, embedded: Embedded) -> dict[str, Rows]:
    """The splits: train, and what the data has of dev and test, or `--eval-dataset` in their place.

    Raises InputError for what cannot be read, and without a train split.
    """
    if config.dataset == "builtin":
        rows = {
            name: Rows([files.Part(f"builtin {name}", part, range(1, len(part) + 1), "row")])
            for name, part in embedded().items()
        }
    else:
        rows = sources.load(config.dataset)
    if "train" not in rows:
        raise InputError(
            f"--dataset {config.dataset}: no train split; name a file train.jsonl (or .json, .parquet ...)"
        )
    if config.eval_dataset:
        found = sources.load(config.eval_dataset)
        held_out = {"dev": found["train"]} if len(found) == 1 and "train" in found else found
        rows = {**held_out, "train": rows["train"]}
    return rows
