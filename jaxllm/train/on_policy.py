"""Data that is sampled from the model in training: what `fit` asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxllm.data.loader import Steps
from jaxllm.train.forward import Runner
from jaxllm.types import Metrics


@runtime_checkable
class OnPolicy(Protocol):
    """Rounds of steps: each begins by sampling from the model as it then is.

    A round's order and samples follow from the seed, its number and the parameters at its start alone. Those parameters
    are gone when a run is stopped within a round, so a checkpoint carries what was sampled, which is small beside them.
    """

    @property
    def plan(self) -> Steps:
        """The rows of a step, and the steps of a pass over the prompts."""

    def build(self, rows: list[list[int]], count: int) -> Any:
        """A batch of the largest shape, with these prompts' rows, for what is known before anything is sampled."""

    def batch(self, step: int) -> Any:
        """`build` of a whole step."""

    def fingerprint(self) -> str:
        """A hash of the prompts and their order."""

    def rollouts(
        self, start: int, stop: int, rows: Sequence[int], policy: Callable[[], Runner], saved: Mapping[str, Any] | None
    ) -> Iterator[tuple[Any, Metrics]]:
        """The steps from `start` to before `stop`: these rows of each batch (numpy), and what is logged of the step.

        policy() is the model as it is now, called where a round begins. saved: `state(start)` of the run that stopped
        there. All processes iterate together.
        """

    def begins(self, position: int) -> bool:
        """Whether the step after `position` samples first, and so waits for those before it."""

    def state(self, position: int) -> Mapping[str, Any] | None:
        """As JSON, what was sampled for the steps after `position`; None where a round begins there."""
