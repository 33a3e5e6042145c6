"""Writes the numbers of a run: to metrics.jsonl always, to the terminal, TensorBoard or Weights & Biases if asked."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxllm.distributed import messages
from jaxllm.run.terminal import Terminal
from jaxllm.types import InputError


class Writer(Protocol):
    """Writes numbers to one place."""

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Writes the numbers of a step."""

    def close(self) -> None:
        """Ends writing."""


class Jsonl:
    """metrics.jsonl: a line per logged step. Opening it at a position removes the lines of later steps."""

    def __init__(self, path: Path, position: int):
        kept = read_jsonl(path, position)
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a")

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        clean = {k: None if isinstance(x, float) and not math.isfinite(x) else x for k, x in numbers.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_jsonl(path: Path, position: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics file up to a step. A last line that a crash cut short is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [line for line in lines if position is None or line["step"] <= position]


class TensorBoard:
    """Event files for TensorBoard, in the run folder (extra `tensorboard`)."""

    def __init__(self, folder: Path, position: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("--log-to tensorboard needs the extra: pip install 'jaxllm[tensorboard]'") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=position + 1)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        for name, x in numbers.items():
            if isinstance(x, int | float):
                self._writer.add_scalar(name, x, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run at Weights & Biases (extra `wandb`); its id is the folder's name, so that a continued run is one run.

    named: `project`, `entity`, `name` and `tags` of `wandb.init`, which takes what is None from WANDB_PROJECT,
    WANDB_ENTITY, WANDB_NAME and WANDB_TAGS.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], named: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise InputError("--log-to wandb needs the extra: pip install 'jaxllm[wandb]'") from None
        named = {name: list(x) if isinstance(x, tuple) else x for name, x in named.items() if x}
        if not os.environ.get("WANDB_PROJECT"):
            named = {"project": "jaxllm", **named}
        self._run = wandb.init(id=folder.name, dir=str(folder), config=dict(config), resume="allow", **named)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Writers(list[Writer]):
    """The writers of a run, used as one."""

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        for writer in self:
            writer.write(step, numbers)

    @property
    def terminal(self) -> Terminal | None:
        """The terminal, if the run writes to it."""
        return next((writer for writer in self if isinstance(writer, Terminal)), None)

    def print(self, text: str) -> None:
        """Prints a line on the terminal, if the run writes to it."""
        if self.terminal:
            self.terminal.print(text)

    def state(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Shows on the terminal what the run does inside the `with` block."""
        return self.terminal.state(name) if self.terminal else contextlib.nullcontext()

    def close(self) -> None:
        for writer in self:
            writer.close()


LOG_TO = ("terminal", "none", "jsonl", "tensorboard", "wandb")


def on_terminal(log_to: Sequence[str]) -> bool:
    """Whether this process shows the run on the terminal: process 0 does, unless `none` or `jsonl` is named."""
    return messages.index() == 0 and not {"none", "jsonl"} & set(log_to)


def open_writers(
    log_to: Sequence[str], folder: Path, *, position: int, steps: int, config: Mapping[str, Any],
    wandb: Mapping[str, Any] | None = None,
) -> Writers:  # fmt: skip
    """The writers of a run, of which only process 0 has any: metrics.jsonl always, and those of `log_to`.

    wandb: the run's `project`, `entity`, `name` and `tags` at Weights & Biases. Raises InputError for an extra that is
    not installed.
    """
    if messages.index() > 0:
        return Writers()
    writers = Writers([Jsonl(folder / "metrics.jsonl", position)])
    if "tensorboard" in log_to:
        writers.append(TensorBoard(folder, position))
    if "wandb" in log_to:
        writers.append(WandB(folder, config, wandb or {}))
    if on_terminal(log_to):  # last: it starts a thread that draws the bar
        writers.append(Terminal(steps, position))
    return writers
