"""What a plan (jaxllm/plan) tells the code that it runs for hardware not here: devices, platform, stand-ins.

A plan runs a training script as it is, up to the step that `fit` compiles. Within `planned(...)`, whoever asks for
devices, for their platform, or for what only a real run has (weights, a tokenizer, a run folder) is told by `current`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from jaxllm.types import InputError


@dataclasses.dataclass
class Planning:
    """A plan that is being made."""

    devices: Sequence[Any]
    """Of the hardware planned for; it need not be here."""
    platform: str
    """tpu, gpu or cpu."""
    folder: Path
    """An empty temporary folder, for what a script must find in files."""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the model's configuration to change, such as the backend of attention."""
    config: Any = None
    """The script's flags, once it has parsed them."""
    tokenizer: Any = None
    """What stands in for every tokenizer."""
    script: str = ""
    """The script, while it runs up to its call of `fit`."""
    within: float = 0.0
    """Seconds that it may take until then; 0 for as long as it likes."""


class Planned(BaseException):
    """`fit` has everything but data and weights, and stops: `program` is what it would compile.

    No Exception, so that no script takes it for an error.
    """

    def __init__(self, program: Any):
        super().__init__("the step is planned")
        self.program = program


_CURRENT: ContextVar[Planning | None] = ContextVar("planning", default=None)


def current() -> Planning | None:
    """The plan that is being made; None in a run."""
    return _CURRENT.get()


@contextlib.contextmanager
def planned(planning: Planning) -> Iterator[Planning]:
    """Makes this the current plan."""
    token = _CURRENT.set(planning)
    try:
        yield planning
    finally:
        _CURRENT.reset(token)


def refuse_a_run(what: str) -> None:
    """Raises InputError where a script that is planned goes past `fit`, to `what` only a run does."""
    planning = current()
    if planning is not None and planning.script:
        raise InputError(f"{planning.script} {what} without jaxllm.train.fit.fit, whose step a plan is made of")


def platform() -> str:
    """The platform that is computed for: tpu, gpu or cpu."""
    import jax

    planning = current()
    return planning.platform if planning else jax.default_backend()
