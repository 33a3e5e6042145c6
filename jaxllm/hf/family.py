"""What a table file tells of its family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from jaxllm.hf.config import Fields
from jaxllm.hf.table import Table

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Family(Generic[C]):
    """How models of one model_type are read and written; C is the class of our configuration."""

    architecture: str
    """Name of the class in `transformers` that loads what we write."""
    read: Callable[[Fields], C]
    """config.json -> our configuration. Raises InputError for what it does not honour."""
    write: Callable[[C], dict[str, Any]]
    """Our configuration -> the fields of config.json that are the family's own. What it cannot express, reading it back
    will tell."""
    table: Callable[[C], Table]
    """The names on disk of a model of this configuration."""
