"""What a stage of `benchmark.py` is asked for, and what it answers: the commands of both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.types import InputError

HERE = Path(__file__).parents[1]
"""The folder of the scripts."""

OUT = "{out}"
"""In a command: the run folder or, of a peer, its JSON file."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Asked:
    """Of one stage at one size. Zeros and empty texts stand for the stage's own choice."""

    size: str
    dataset: str = ""
    model: str = ""
    dtype: str = "float32"
    batch_size: int = 0
    max_length: int = 0
    steps: int = 0
    untimed: int = 0

    def schedule(self, steps: int) -> tuple[int, int]:
        """Steps of a run, and how many of them come first and are not timed. Raises InputError."""
        steps = self.steps or steps
        untimed = self.untimed or next(n for n in range(max(1, steps // 6), 0, -1) if steps % n == 0)
        if steps % untimed or steps < 2 * untimed:
            raise InputError(f"--steps {steps} --untimed {untimed}: the untimed steps must divide all, at most in half")
        return steps, untimed


@dataclasses.dataclass(frozen=True)
class Peer:
    """The same work elsewhere."""

    library: str
    """What `--against` calls it: torch, hf or trl."""
    needs: tuple[str, ...]
    """Packages that must be installed."""
    command: tuple[str, ...]
    """Words after the interpreter's; OUT stands for the JSON file that it writes."""
    tool: str = ""
    """A program that must be on the path too."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The commands of both sides."""

    description: str
    """In a few words."""
    ours: tuple[str, ...]
    """Words after the interpreter's; OUT stands for the run folder."""
    peers: Mapping[str, Peer]
    """By the name that the table has."""
    tokens_per_example: float | None = None
    """Real tokens of an example on average, for peers that count examples."""


Prepare = Callable[[Asked, Path], Work]
"""(what is asked, a folder to prepare data and models in) -> the work."""


def words(*parts: Any) -> tuple[str, ...]:
    """A command as texts."""
    return tuple(map(str, parts))


def of_size(asked: Asked, sizes: Mapping[str, T]) -> T:
    """What a stage has for a size. Raises InputError."""
    if asked.size not in sizes:
        raise InputError(f"--size {asked.size}: give {' or '.join(sizes)}")
    return sizes[asked.size]


def script(name: str, asked: Asked, steps: int, untimed: int, *more: Any) -> tuple[str, ...]:
    """A training script of ours that logs its speed, evaluates nothing and keeps nothing."""
    return words(
        HERE / name, "--dtype", asked.dtype, "--steps", steps, "--log-every", untimed, "--eval-every", 0,
        "--checkpoint-every", 0, "--no-export", "--log-to", "none", "--out", OUT, *more,
    )  # fmt: skip


def peer(name: str, asked: Asked, steps: int, untimed: int, *more: Any) -> tuple[str, ...]:
    """A script of peers/."""
    return words(
        HERE / "peers" / name, "--json", OUT, "--dtype", asked.dtype, "--untimed-steps", untimed, *more,
    )  # fmt: skip


def first_of(rows: Sequence[T], count: int, what: str) -> list[T]:
    """The first rows, as many as batches of equal size need. Raises InputError where there are too few."""
    if not (whole := len(rows) // count * count):
        raise InputError(f"{len(rows)} {what} are fewer than a batch of {count}: lower --batch-size")
    return list(rows[:whole])
