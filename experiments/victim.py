"""The small run that kill_test.py does things to, and what stands in its folder, seen from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.checkpoint import compare, manifest
from jaxllm.data.builtin import ner as builtin
from jaxllm.types import InputError

STEPS, EVAL_EVERY = 60, 20
PATIENCE_S = 1200.0
"""The machine may be busy."""


class Victim:
    """The run, in processes of its own."""

    def __init__(self, work: Path, processes: int = 1, devices: int = 1, platform: str = "cpu"):
        """devices: fake ones, on a CPU. platform: JAX's name of it; "" for what this machine has."""
        self.work, self.processes, self.devices, self.platform = work.resolve(), processes, devices, platform
        self.work.mkdir(parents=True, exist_ok=True)
        model = {"vocab_size": 96, "width": 16, "depth": 2, "heads": 4, "mlp_width": 32, "max_positions": 64}
        (self.work / "model.json").write_text(json.dumps(model))
        text = self.work / "text.jsonl"
        if not text.exists():
            sentences = [" ".join(row["tokens"]) for row in builtin.ner()["train"][:600]]
            whole = [json.dumps({"text": one.encode("ascii", "ignore").decode()}) for one in sentences]
            text.write_text("\n".join(whole) + "\n")

    def command(self, out: Path, flags: Sequence[str] = ()) -> list[str]:
        script = str(Path(__file__).with_name("pretrain.py"))
        several = ["-m", "jaxllm.launch", "--processes", str(self.processes)]
        several += ["--devices-per-process", str(self.devices)]
        return [
            sys.executable, *(several if self.processes > 1 else []), script,
            "--model", str(self.work / "model.json"), "--tokenizer", "char", "--dataset", str(self.work / "text.jsonl"),
            "--holdout", "0.2", "--max-length", "64", "--batch-size", "8", "--steps", str(STEPS),
            "--checkpoint-every", "2", "--eval-every", str(EVAL_EVERY), "--log-every", "1", "--keep", "3",
            "--sample-tokens", "0", "--no-export", "--log-to", "none", "--out", str(out), *flags,
        ]  # fmt: skip

    def start(self, out: Path, *flags: str, cached: bool = True) -> subprocess.Popen[str]:
        """A process group that trains. cached: compiled programs are kept between starts."""
        count = f"--xla_force_host_platform_device_count={self.devices}"
        environment = {
            **os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
            "XDG_CACHE_HOME": str(self.work / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_ENABLE_COMPILATION_CACHE": str(cached),
        }  # fmt: skip
        if self.platform:
            environment["JAX_PLATFORMS"] = self.platform
        for name in ("JAXLLM_STARTED", "JAX_COMPILATION_CACHE_DIR"):
            environment.pop(name, None)
        out.parent.mkdir(parents=True, exist_ok=True)
        with self.log(out).open("a") as log:
            return subprocess.Popen(
                self.command(out, flags), env=environment, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def log(self, out: Path) -> Path:
        """The file that the processes of a run print to, outside its folder."""
        return self.work / ("-".join(out.absolute().relative_to(self.work).parts) + ".log")

    def whole(self, *flags: str) -> Path:
        """The folder of the run that nothing happened to, with a checkpoint of every step."""
        out = self.work / f"whole-{self.processes}x{self.devices}"
        if not (out / "summary.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            self.end(self.start(out, "--checkpoint-every", "1", "--keep", "1000", *flags), out)
        return out

    def end(self, child: subprocess.Popen[str], out: Path, wanted: int = 0) -> None:
        """Waits for the child. Raises SystemExit with what it said if its status is another."""
        if (status := child.wait(PATIENCE_S)) != wanted:
            said = self.log(out).read_text()[-2000:]
            raise SystemExit(f"{out} ended with status {status} instead of {wanted}:\n{said}")


class Look:
    """What stands in a run's folder, without a word from the process that is at it."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / "checkpoints"
        self._before = self._metrics(), self._unsealed(), self._partial()

    def _metrics(self) -> int:
        path = self.out / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else 0

    def _partial(self) -> set[int]:
        return {inode for path in self.folder.glob("*tmp*") if (inode := _inode(path))}

    def complete(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())

    def _unsealed(self) -> set[int]:
        return {n for n in self.complete() if not (self.folder / str(n) / manifest.MANIFEST).exists()}

    def lines(self) -> list[dict[str, Any]]:
        """What this start and those before it have logged, as far as it counts."""
        return compare.read_jsonl(self.out / "metrics.jsonl")

    def taken(self) -> int:
        """The last step that was logged, 0 before this start has opened the log."""
        if self._metrics() == self._before[0]:
            return 0
        return max((line["step"] for line in self.lines()), default=0)

    def phase(self, resumed: int) -> str:
        """Which part of the program the process is in, or was when it died."""
        metrics, unsealed, partial = self._before
        if self._metrics() == metrics:
            return "start-up"
        if self._partial() - partial or self._unsealed() - unsealed:
            return "saving"
        lines = self.lines()
        last = max((line["step"] for line in lines), default=0)
        if last <= resumed:
            return "compiling"
        seen = any("dev/loss" in line for line in lines if line["step"] == last)
        if last % EVAL_EVERY == 0 and not seen:
            return "evaluating"
        return "ending" if last == STEPS else "training"


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def differences(out: Path, whole: Path, floor: int) -> tuple[int, list[str]]:
    """The newest sound checkpoint's position (0 for none), and in what it is not the uninterrupted run's.

    floor: a position that was complete already.
    """
    found: list[str] = []
    try:
        here = compare.read(out)
    except InputError as error:
        return 0, [str(error)] if floor else []
    if here.position < floor:
        found.append(f"checkpoint {floor} was complete, and {here.position} is what is left")
    return here.position, found + compare.differences(compare.read(whole, here.position), here)
