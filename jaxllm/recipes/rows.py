"""From `--dataset` and `--eval-dataset` to rows by split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from jaxllm.data import files, sources
from jaxllm.data.sources import Rows
from jaxllm.recipes.flags import Common
from jaxllm.types import InputError

Embedded = Callable[[], Mapping[str, Sequence[dict[str, Any]]]]
"""The corpus that `--dataset builtin` means: rows by split."""


def open_rows(config: Common, embedded: Embedded) -> dict[str, Rows]:
    """The splits: train, and what the data has of dev and test, or `--eval-dataset` in their place.

    Raises InputError for what cannot be read, and without a train split.
    """
    if config.dataset == "builtin":
        rows = {name: Rows([files.Part(f"builtin {name}", part)]) for name, part in embedded().items()}
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


class Rowed(Protocol):
    """What stands in rows, of which some can be held out."""

    def __len__(self) -> int: ...

    def every(self, period: int) -> tuple[Self, Self]:
        """All but every `period`-th row, and these."""


S = TypeVar("S", bound=Rowed)


def check(holdout: float, cut: str, cuts: Sequence[str]) -> None:
    """Raises InputError for a share or a way to cut that there is not."""
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout {holdout}: give a share from 0 to below 1")
    if cut not in cuts:
        raise InputError(f"--cut {cut}: give one of {', '.join(cuts)}")


def hold_out(splits: Mapping[str, S], share: float) -> dict[str, S]:
    """The splits, with a dev of so large a share of train where there is none and train has the rows for it."""
    period = max(2, round(1 / share)) if share else 0
    if "dev" in splits or not 0 < period <= len(splits["train"]):
        return dict(splits)
    train, dev = splits["train"].every(period)
    return {**splits, "train": train, "dev": dev}


def key_of(texts: Iterable[str]) -> str:
    """Changes when the texts do."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode(errors="surrogatepass"))
    return digest.hexdigest()
