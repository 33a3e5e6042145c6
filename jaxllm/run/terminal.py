"""What a run shows on the terminal: a live bar, or where the output is redirected, a line per logged step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, SpinnerColumn


def spinner(text: str) -> contextlib.AbstractContextManager[Any]:
    """Shows a text with a spinner on a live terminal inside the `with` block."""
    console = rich.console.Console()
    return console.status(text) if _is_live(console) else contextlib.nullcontext()


def _is_live(console: rich.console.Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class Terminal:
    """Shows the state of a run (reading, compiling, training, evaluating, saving), its speed and the time left.

    Whatever else is printed while the bar is shown, here or by `print`, appears above it.
    """

    def __init__(self, steps: int, start: int, console: rich.console.Console | None = None):
        self.console = console or rich.console.Console(soft_wrap=True, highlight=False)
        self._steps, self._start, self._began = steps, start, time.monotonic()
        self._logged = start
        self._bar: Progress | None = None
        if _is_live(self.console):
            columns = ("{task.description}", BarColumn(24), "{task.fields[step]}", "{task.fields[numbers]}")
            self._bar = Progress(SpinnerColumn(), *columns, console=self.console, refresh_per_second=4)
            self._task = self._bar.add_task("", total=steps, numbers="", step="")
            self.show("reading", start)
            self._bar.start()

    def show(self, state: str, step: int | None = None) -> None:
        """Shows what the run does from now on, and at which step."""
        if self._bar:
            moved: dict[str, Any] = {} if step is None else {"completed": step, "step": f"step {step}/{self._steps}"}
            self._bar.update(self._task, description=state, **moved)

    @contextlib.contextmanager
    def state(self, name: str) -> Iterator[None]:
        """Names what the run does inside the `with` block."""
        before = self._bar.tasks[0].description if self._bar else ""
        self.show(name)
        try:
            yield
        finally:
            self.show(before)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Shows the numbers of a training step, or of an evaluation, which have no "loss" of their own."""
        head = f"step {step:>{len(str(self._steps))}}/{self._steps}"
        if "loss" not in numbers:
            wanted = ("f1", "precision", "recall", "loss", "accuracy", "perplexity", "accuracies", "margins")
            last = {k: k.partition("/")[2].removeprefix("rewards/") for k in numbers}  # dev/rewards/margins: margins
            parts = [f"{k} {x:.4f}" for k, x in numbers.items() if last[k] in wanted]
            self.console.print(f"[bold]{head}  {'  '.join(parts)}[/bold]")
            return
        loss, norm = float(numbers["loss"]), float(numbers["grad_norm"])
        rate, speed = numbers.get("learning_rate"), numbers.get("tokens_per_s")
        steps, self._logged = step - self._logged, step
        skipped = round(steps * numbers.get("skipped", 0.0))
        said = f"loss {loss:.4f}"
        if skipped:
            said = f"all {steps} steps skipped" if skipped == steps else f"{said}, {skipped} of {steps} steps skipped"
        left = (time.monotonic() - self._began) / max(1, step - self._start) * (self._steps - step)
        clock = f"{int(left // 60)}:{int(left % 60):02d} left"
        pace = f"{speed:,.0f} tokens/s" if speed else "compiling done"
        if self._bar:
            self._bar.update(self._task, numbers=f"{said}  {pace if speed else ''}  {clock}")
            return
        others = "  ".join(f"{k} {x:.4g}" for k, x in numbers.items() if "/" in k and isinstance(x, float))
        grad = f"grad {norm:.2f}  " if math.isfinite(norm) or not skipped else ""
        lr = "" if rate is None else f"lr {rate:.2e}  "
        self.console.print(f"{head}  {said}  {grad}{lr}{pace}  {clock}  {others}")

    def print(self, text: str) -> None:
        """Prints a line of plain text."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Stops drawing the bar, which stays as it is."""
        if self._bar:
            self._bar.stop()
