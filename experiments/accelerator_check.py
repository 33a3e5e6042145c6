"""Half an hour on a GPU or TPU: whether everything is right there, how fast it is, and how much memory it takes.

    python experiments/accelerator_check.py
    python experiments/accelerator_check.py --parts attention head

In order of worth, each part in a process of its own and begun for at most five minutes:

families   every family's loss and gradients against the CPU's, in float32
attention  each way to compute attention against XLA's, in values and gradients; then the speed of each
head       a vocabulary of 151,936: in chunks, beside its bare matrix products and all logits
training   tokens/s, MFU and memory of gpt2-124m, llama-1b, BERT-base NER, and DPO of a 1B model with its longest row
survival   SIGTERM, SIGKILL and on: the same bits with --deterministic
trace      the profiler's trace of ten steps

What a part finds is written to --out after each line, and the whole to report.json after each part, so that a run that
is cut off keeps what it has; the command again goes on with what is missing. On a CPU all of it runs at toy sizes,
which says that it runs and nothing else. Exit status: 0 if all is right, else 1. Expected: experiments/README.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxllm.recipes.machine import describe_machine
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.folder import check_folder, write_json
from jaxllm.types import InputError, check_one_of

HERE = Path(__file__).parent
PARTS = {
    "families": "model_families", "attention": "attention_backends", "head": "head", "training": "training",
    "survival": "survival", "trace": "trace",
}  # fmt: skip
"""The modules in checks/ by the part's name."""

GRACE_S = 60.0
"""How much longer than its limit a part may take for what it has begun, in seconds."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Checks and measures everything on this machine's accelerator."""

    parts: tuple[str, ...] = tuple(PARTS)
    """Parts to run, in order: families, attention, head, training, survival, trace."""
    out: Path = Path("runs/accelerator-check")
    """Folder of what is found."""
    limit_s: float = 300.0
    """Time after which a part begins nothing new, in seconds; a minute later it is ended."""
    toy: bool = False
    """Use sizes that a CPU computes in seconds; so it is on a CPU anyway."""
    again: bool = False
    """Run parts too that are complete in --out."""


def run_part(config: Config, name: str) -> dict[str, Any]:
    """Runs a part to its end or its limit; what it found, with the exit status and the end of what it said."""
    path, log = config.out / f"{name}.json", config.out / f"{name}.log"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"checks.{PARTS[name]}", "--json", path, "--limit-s", config.limit_s]
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("JAXLLM_STARTED", None)
    with log.open("w") as heard:
        child = subprocess.Popen(
            [*map(str, command), *(["--toy"] if config.toy else [])], env=environment, stderr=heard,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = child.wait(config.limit_s + GRACE_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it has started
            child.wait()
    found = read(path) or {"complete": False, "entries": []}
    said = log.read_text(errors="replace").strip().splitlines()
    return {**found, "status": status, "said": said[-15:] if status else []}


def read(path: Path) -> dict[str, Any] | None:
    """What a part wrote; None for nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return None


def verdict(part: dict[str, Any]) -> tuple[str, int, int]:
    """In a word, how a part went; how many checks were right, and how many not."""
    judged = [one["ok"] for one in part["entries"] if one["ok"] is not None]
    wrong = judged.count(False)
    if wrong:
        word = "wrong"
    elif part.get("status") is None and not part["complete"]:
        word = "cut off"
    else:
        word = "right" if part["complete"] else "failed"
    return word, judged.count(True), wrong


def table_of(parts: dict[str, dict[str, Any]]) -> Table:
    """One line a part."""
    table = Table(header_style="bold", title_justify="left")
    for name in ("part", "is", "right", "wrong", "measured", "left out", "seconds"):
        table.add_column(name, justify="left" if name in ("part", "is") else "right")
    for name, part in parts.items():
        word, right, wrong = verdict(part)
        skipped = sum("left_out" in one for one in part["entries"])
        measured = len(part["entries"]) - right - wrong - skipped
        table.add_row(name, word, *map(str, (right, wrong, measured, skipped)), f"{part.get('seconds', 0):.0f}")
    return table


def check(config: Config) -> None:
    """Raises InputError."""
    for name in config.parts:
        check_one_of("--parts", name, PARTS)
    if not config.parts:
        raise InputError(f"--parts: give some of {', '.join(PARTS)}")
    if config.limit_s <= 0:
        raise InputError(f"--limit-s {config.limit_s:g}: give more than 0")
    check_folder(config.out, "--out")


def main(config: Config) -> int:
    """Runs the parts; the exit status."""
    check(config)
    config.out.mkdir(parents=True, exist_ok=True)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    report: dict[str, Any] = {"machine": describe_machine(), "parts": {}}
    parts = report["parts"]
    for number, name in enumerate(config.parts, start=1):
        before = read(config.out / f"{name}.json")
        if before and before["complete"] and not config.again:
            out.print(f"[bold]{number}/{len(config.parts)} {name}[/bold]: complete in {config.out}; --again repeats it")
            parts[name] = {**before, "status": 0}
        else:
            out.print(f"[bold]{number}/{len(config.parts)} {name}[/bold]")
            parts[name] = run_part(config, name)
        for line in parts[name].get("said", []):
            out.print(f"  {line}", markup=False)
        write_json(config.out / "report.json", report)
    device = next((part["device"] for part in parts.values() if "device" in part), "no device")
    out.print()
    out.print(table_of(parts))
    if any(part.get("toy") for part in parts.values()):
        out.print("toy sizes: this says that everything runs, and nothing on any device's speed or rounding")
    out.print(f"{device}; written to {config.out / 'report.json'}", markup=False)
    return int(any(verdict(part)[0] != "right" for part in parts.values()))


if __name__ == "__main__":
    with input_errors():
        sys.exit(main(parse(Config, sys.argv[1:])))
