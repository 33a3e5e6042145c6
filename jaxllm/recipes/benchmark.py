"""What a benchmark is made of: one side's run in a process of its own, its numbers, and rounds as a table."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run of one side. None is what that side cannot tell."""

    tokens_per_s: float
    """Real tokens: no padding, a prompt that two answers share counted once."""
    step_s: float
    """Seconds of a step, the first ones left out."""
    start_s: float | None
    """From the command to the end of the first step."""
    start_cpu_s: float | None
    """Processor time by then."""
    host_gib: float | None
    """The most memory that the process held."""
    device_gib: float | None = None
    """The most memory in use on an accelerator."""
    compile_s: float | None = None
    """Of which the first step took, compiling and what else a loop begins with included."""
    flops_per_s: float | None = None
    """Of the model by formula, over all devices."""


def run(command: Sequence[object], python: Path | None = None) -> None:
    """Runs a script to its end, by this interpreter or another. Raises InputError with its last words if it fails."""
    with tempfile.TemporaryFile("w+") as heard:
        words = [str(python or sys.executable), *map(str, command)]
        done = subprocess.run(words, stdout=heard, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            heard.seek(0)
            last = " ".join(heard.read()[-400:].split())
            raise InputError(f"{Path(str(command[0])).name} failed (exit status {done.returncode}): {last}")


def read_run(folder: Path) -> Measured:
    """The numbers of a run folder of ours, without the first logged line, where the process was warming up.

    Raises InputError for a run that logged fewer than two lines with a speed.
    """
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if line.get("tokens_per_s")]
    if len(lines) < 2:
        raise InputError(f"{folder}: two logged lines are needed, of which the first is not timed; make more steps")
    summary = json.loads((folder / "summary.json").read_text())
    tokens = lines[-1]["tokens"] - lines[0]["tokens"]
    pairs = zip(lines[1:], lines, strict=False)
    seconds = sum((line["tokens"] - before["tokens"]) / line["tokens_per_s"] for line, before in pairs)
    flops = statistics.harmonic_mean([line["tflops_per_device"] for line in lines[1:]])
    memory = {
        name: None if summary.get(f"{name}_bytes") is None else summary[f"{name}_bytes"] / GIB
        for name in ("host", "device")
    }
    return Measured(
        tokens / seconds, seconds / (lines[-1]["step"] - lines[0]["step"]), summary.get("start_s"),
        summary.get("start_cpu_s"), memory["host"], memory["device"], summary["compile_s"],
        flops * 1e12 * summary.get("devices", 1),
    )  # fmt: skip


def read_peer(path: Path, tokens_per_example: float | None, flops_per_token: float | None) -> Measured:
    """The numbers that a peer wrote (`peers/measured.py`), in the tokens and FLOPs of our side."""
    found = json.loads(path.read_text())["measured"]
    speed = found.get("tokens_per_s")
    if speed is None:
        assert tokens_per_example is not None, "a peer that counts examples needs their tokens"
        speed = found["examples_per_s"] * tokens_per_example
    given = {field.name: found.get(field.name) for field in dataclasses.fields(Measured)}
    own = given["flops_per_s"]
    flops = own if own is not None or flops_per_token is None else speed * flops_per_token
    return Measured(**{**given, "tokens_per_s": speed, "flops_per_s": flops})


def ratios(rounds: Sequence[Mapping[str, Measured]], ours: str, peer: str) -> list[float]:
    """Our tokens a second over the peer's, round by round, so that a machine whose speed drifts cancels out."""
    return [one[ours].tokens_per_s / one[peer].tokens_per_s for one in rounds if peer in one]


def spread(numbers: Sequence[float], form: str) -> str:
    """The median, and the range where there are several: "1.54 (1.50 to 1.61)"."""
    middle = format(statistics.median(numbers), form)
    if len(numbers) == 1:
        return middle
    return f"{middle} ({format(min(numbers), form)} to {format(max(numbers), form)})"


def table_of(
    title: str, rounds: Sequence[Mapping[str, Measured]], best: Sequence[Mapping[str, float]], ours: str
) -> Table:
    """Sides below one another: medians and ranges over the rounds.

    best: by round, FLOP/s of the best matmul of each library.
    """
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("", "real tokens/s", "ms a step", "ratio", "compile s", "start s (CPU s)", "peak GiB", "GFLOP/s",
                 "of best matmul"):  # fmt: skip
        table.add_column(name, justify="right" if name else "left")
    for side in dict.fromkeys(side for one in rounds for side in one):
        runs = [(one[side], matmul) for one, matmul in zip(rounds, best, strict=True) if side in one]
        library = "jax" if side == ours else "torch"
        shares = [m.flops_per_s / most[library] for m, most in runs if m.flops_per_s and most.get(library)]
        table.add_row(
            side,
            spread([m.tokens_per_s for m, _ in runs], ",.0f"),
            spread([m.step_s * 1000 for m, _ in runs], ".1f"),
            "" if side == ours else spread(ratios(rounds, ours, side), ".2f"),
            _of([m.compile_s for m, _ in runs], ".1f"),
            f"{_of([m.start_s for m, _ in runs], '.1f')} ({_of([m.start_cpu_s for m, _ in runs], '.1f')})",
            _memory([m for m, _ in runs]),
            _of([None if m.flops_per_s is None else m.flops_per_s / 1e9 for m, _ in runs], ",.0f"),
            f"{statistics.median(shares):.0%}" if shares else "",
        )
    return table


def _of(numbers: Sequence[float | None], form: str) -> str:
    known = [x for x in numbers if x is not None]
    return format(statistics.median(known), form) if known else ""


def _memory(runs: Sequence[Measured]) -> str:
    host, device = _of([m.host_gib for m in runs], ".2f"), _of([m.device_gib for m in runs], ".2f")
    return f"{host}, device {device}" if device else host


def as_json(rounds: Sequence[Mapping[str, Measured]]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [{side: dataclasses.asdict(measured) for side, measured in one.items()} for one in rounds]
