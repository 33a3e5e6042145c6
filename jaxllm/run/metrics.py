"""Where the numbers of a run go: metrics.jsonl always, the terminal, TensorBoard or Weights & Biases if wanted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import rich.console
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxllm.distributed import messages
from jaxllm.types import InputError, Mean, Metrics, terms

PEAK_FLOPS = {
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bfloat16 FLOP/s of a device by the beginning of its kind, from the makers' data sheets."""


def peak_flops(device: jax.Device) -> float | None:
    """What the chip can do, None where it is not known."""
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


class Sums:
    """Metrics of several steps, added in float64 on the host; `state` survives a checkpoint exactly."""

    def __init__(self, state: Mapping[str, list[list[float]]] | None = None):
        self.state: dict[str, list[list[float]]] = {name: [list(t) for t in s] for name, s in (state or {}).items()}

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one step, fetched from the device."""
        for name, metric in metrics.items():
            found = [[float(weight), float(mean.total), float(mean.count)] for weight, mean in terms(metric)]
            kept = self.state.setdefault(name, [[weight, 0.0, 0.0] for weight, _, _ in found])
            for sums, (_, total, count) in zip(kept, found, strict=True):
                sums[1] += total
                sums[2] += count

    def values(self) -> dict[str, float]:
        """The mean of each metric."""
        return {name: sum(w * Mean(t, c).value() for w, t, c in sums) for name, sums in self.state.items()}


class Clock:
    """Tokens per second of training alone: compiling, evaluating and saving are not counted."""

    def __init__(self, mesh: Mesh, flops_per_token: float):
        self.compile_s = 0.0
        self._began = self._lap = time.monotonic()
        self._tokens = self._pending = 0
        self._waited = 0.0
        self.total = 0
        """Real tokens that the run has seen, over all processes, up to the last `sync`."""
        peak = peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size / flops_per_token

    def count(self, batch: Any) -> None:
        segments = getattr(batch, "batch", batch).segments_BT
        self._pending += int(np.count_nonzero(segments))

    def sync(self) -> None:
        """Adds up what the processes have counted; each of them calls this."""
        new, self._pending = self._pending, 0
        if jax.process_count() > 1:
            new = int(np.sum(multihost_utils.process_allgather(np.int32(new))))
        self._tokens, self.total = self._tokens + new, self.total + new

    def compiled(self) -> None:
        """The first step is done; what it took is no measure of speed."""
        self.compile_s = time.monotonic() - self._began
        self.sync()
        self._tokens, self._waited, self._lap = 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def lap(self) -> dict[str, float | None]:
        """Since the last call; None where nothing was timed."""
        self.sync()
        now, tokens = time.monotonic(), self._tokens
        speed = tokens / (now - self._lap - self._waited) if tokens else None
        self._tokens, self._waited, self._lap = 0, 0.0, now
        return {"tokens_per_s": speed, "mfu": speed / self._peak if speed and self._peak else None}


class Writer(Protocol):
    """One place that numbers go to."""

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """One line of numbers."""

    def close(self) -> None:
        """No more lines follow."""


class Jsonl:
    """metrics.jsonl: a line per logged step. Opened at a position, it forgets the lines that come after it."""

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
    """The whole lines of a metrics file, up to a step. A last line cut short by a crash is dropped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [line for line in lines if position is None or line["step"] <= position]


class Terminal:
    """A readable line per logged step, with the time left."""

    def __init__(self, steps: int, start: int, console: rich.console.Console | None = None):
        self.console = console or rich.console.Console(soft_wrap=True, highlight=False)
        self._steps, self._start, self._began = steps, start, time.monotonic()

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        head = f"step {step:>{len(str(self._steps))}}/{self._steps}"
        shown = ("loss", "grad_norm", "learning_rate", "tokens_per_s")
        if "loss" not in numbers:
            wanted = ("f1", "precision", "recall", "loss", "accuracy", "perplexity", "accuracies", "margins")
            own = {k: k.partition("/")[2].removeprefix("rewards/") for k in numbers}  # dev/rewards/margins: margins
            parts = [f"{k} {x:.4f}" for k, x in numbers.items() if own[k] in wanted]
            self.console.print(f"[bold]{head}  {'  '.join(parts)}[/bold]")
            return
        loss, norm, rate, speed = (numbers.get(k) for k in shown)
        left = (time.monotonic() - self._began) / max(1, step - self._start) * (self._steps - step)
        others = "  ".join(f"{k} {x:.4g}" for k, x in numbers.items() if "/" in k and isinstance(x, float))
        pace = f"{speed:,.0f} tokens/s" if speed else "compiling done"
        clock = f"{int(left // 60)}:{int(left % 60):02d} left"
        self.console.print(f"{head}  loss {loss:.4f}  grad {norm:.2f}  lr {rate:.2e}  {pace}  {clock}  {others}")

    def close(self) -> None:
        pass


def say(writers: Sequence[Writer], text: str) -> None:
    """A line for who watches: on the terminal, where there is one."""
    for writer in writers:
        if isinstance(writer, Terminal):
            writer.console.print(text, markup=False)


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


LOG_TO = ("terminal", "none", "jsonl", "tensorboard", "wandb")


def open_writers(
    log_to: Sequence[str], folder: Path, *, position: int, steps: int, config: Mapping[str, Any],
    wandb: Mapping[str, Any] | None = None,
) -> list[Writer]:  # fmt: skip
    """The writers of a run: metrics.jsonl always; the terminal unless `none` or `jsonl` is named.

    wandb: the run's `project`, `entity`, `name` and `tags` at Weights & Biases.
    Of several processes only the first has any.
    """
    if messages.index() > 0:
        return []
    writers: list[Writer] = [Jsonl(folder / "metrics.jsonl", position)]
    if not {"none", "jsonl"} & set(log_to):
        writers.append(Terminal(steps, position))
    if "tensorboard" in log_to:
        writers.append(TensorBoard(folder, position))
    if "wandb" in log_to:
        writers.append(WandB(folder, config, wandb or {}))
    return writers
