"""How one family of models is read and written: its configuration, its tensors, its class in `transformers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from jaxllm.hf.config import Fields
from jaxllm.hf.table import Table

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Family(Generic[C]):
    """How models of one model_type are read and written; C is our configuration class."""

    architecture: str
    """Name of the class in `transformers` that loads what we write."""
    read: Callable[[Fields], C]
    """config.json -> our configuration. Raises InputError for a value that is not supported."""
    write: Callable[[C], dict[str, Any]]
    """Our configuration -> the family's fields of config.json, which `export` reads back to check them. Raises
    InputError for a configuration of another class."""
    table: Callable[[C], Table]
    """The names on disk of a model of this configuration."""
