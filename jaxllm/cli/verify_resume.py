r"""`python -m jaxllm verify-resume SCRIPT ...`: checks that a run that is killed and resumed equals an unbroken run.

    python -m jaxllm verify-resume experiments/pretrain.py --steps 40 --checkpoint-every 5
    python -m jaxllm verify-resume --devices 8 --on "--mesh data=2,fsdp=4" experiments/pretrain.py \
        --mesh fsdp=8 --steps 40 --checkpoint-every 5

Arrays, counters, random numbers, data positions and logged numbers are compared bit for bit, and within 1e-5 where the
run was resumed with other flags.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro

from jaxllm.checkpoint import compare
from jaxllm.launch import split
from jaxllm.recipes.script import parse
from jaxllm.types import InputError, RunError

TOLERANCE = 1e-5
"""Largest difference between meshes, which add up sums in different orders."""
CHOSEN = ("--out", "--checkpoints", "--config")
"""Flags that this command sets itself, so that each run has its own folder."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs SCRIPT with its flags straight through and again with kills, and compares. Exit status 1 if they differ."""

    kills: int = 2
    """Number of kills of the second run, by SIGKILL and SIGTERM in turn, each after one more checkpoint."""
    on: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Flags that a third run goes on with after a kill, like "--mesh tensor=4"; may be repeated; by default none."""
    devices: int = 0
    """Number of CPU devices that the script sees; 0 for those there are."""
    work: str = ""
    """Folder for the runs; by default a temporary one, removed if all is equal."""
    seed: int = 0
    """Seed of the moments of the kills."""
    command: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The script (or -m MODULE) and its flags."""


def read(argv: Sequence[str]) -> Config:
    """Parses the flags of this command, then the script and its flags. Raises InputError."""
    own, command = split(argv)
    for at in reversed(range(len(own) - 1)):  # its value looks like a flag
        if own[at] == "--on":
            own[at : at + 2] = [f"--on={own[at + 1]}"]
    config = parse(Config, own, prog="python -m jaxllm verify-resume")
    if not command:
        raise InputError("name the script to run, and its flags (see --help)")
    if command[0] != "-m" and not os.path.isfile(command[0]):
        raise InputError(f"{command[0]}: there is no such script")
    try:
        others = [shlex.split(flags) for flags in config.on]
    except ValueError as error:
        raise InputError(f"--on {' '.join(config.on)}: {error}") from None
    for text in [*command, *(word for words in others for word in words)]:
        if (flag := text.partition("=")[0]) in CHOSEN:
            raise InputError(f"{flag}: verify-resume gives each run a folder of its own; leave it out")
    if config.kills < 1:
        raise InputError(f"--kills {config.kills}: at least 1 is needed")
    if config.devices < 0:
        raise InputError(f"--devices {config.devices}: give a number")
    if not all(others):
        raise InputError('--on is empty: give flags of the script, such as "--mesh data=2,tensor=4"')
    return dataclasses.replace(config, command=tuple(command))


class Script:
    """Runs of the script, each in its own process, one at a time."""

    def __init__(self, config: Config):
        self._command = [sys.executable, *config.command]
        self._child: subprocess.Popen[str] | None = None
        self._environment = {name: x for name, x in os.environ.items() if name != "JAXLLM_STARTED"}
        if config.devices:
            flag = "--xla_force_host_platform_device_count"
            flags = re.sub(rf"{flag}=\S+", "", os.environ.get("XLA_FLAGS", ""))
            self._environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {flag}={config.devices}".strip()}

    def start(self, out: Path, flags: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Starts a run; its output goes to a file beside the run folder."""
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".txt").open("a") as log:
            self._child = subprocess.Popen(
                [*self._command, *flags, "--out", str(out)], env=self._environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, text=True,
            )  # fmt: skip
        return self._child

    def stop(self) -> None:
        """Kills the process if it still runs."""
        if self._child and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def finish(self, out: Path, flags: Sequence[str] = ()) -> None:
        """Runs to the end. Raises InputError or RunError if that fails."""
        _judge(self.start(out, flags).wait(), out, 0)

    def cut(self, out: Path, kills: int, rng: random.Random) -> list[str]:
        """Starts and kills the run so many times, or until it finishes. Returns a description of each kill."""
        done = []
        for kill in range(kills):
            before, child = _complete(out), self.start(out)
            while child.poll() is None and _complete(out) <= before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.5))
            number = signal.SIGTERM if kill % 2 else signal.SIGKILL
            child.send_signal(number)
            status = child.wait()
            if (out / "summary.json").exists() or status == 0:
                break
            _judge(status, out, -number, 128 + number)
            last = max((line["step"] for line in compare.read_jsonl(out / "metrics.jsonl")), default=0)
            done.append(f"{number.name}, last line of step {last}, newest checkpoint {_complete(out)}")
        return done


def main(config: Config) -> None:
    """Makes the runs, compares them and prints the result."""
    jax.config.update("jax_platforms", "cpu")  # the devices are the script's
    script = Script(config)
    try:
        work = Path(config.work or tempfile.mkdtemp(prefix="jaxllm-verify-")).absolute()
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--work {config.work}: no folder can be made there ({error.strerror})") from None
    if any(work.iterdir()):
        raise InputError(f"--work {config.work} is not empty: give another")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        same = _verify(config, script, work)
    finally:
        script.stop()
        signal.signal(signal.SIGTERM, before)
    if not same:
        _say("runs", str(work))
        raise SystemExit(1)
    if not config.work:
        shutil.rmtree(work)


def _verify(config: Config, script: Script, work: Path) -> bool:
    straight, rng, same = work / "straight", random.Random(config.seed), True
    began = time.monotonic()
    script.finish(straight)
    wanted = compare.read(straight)
    _say("straight", f"{wanted.position} steps in {time.monotonic() - began:.0f} s")
    for i, text in enumerate(("", *config.on)):
        flags, out = shlex.split(text), work / (f"on-{i}" if i else "killed")
        done = script.cut(out, 1 if flags else config.kills, rng)
        if not done:
            raise InputError(
                "the run was through before it could be killed after a checkpoint: give a smaller --checkpoint-every, "
                f"or more --steps; it took {wanted.position} (see {work})"
            )
        for one in done:
            _say("killed", one)
        script.finish(out, flags)
        same &= _compare(straight, wanted, out, text)
    return same


def _compare(straight: Path, wanted: compare.Snapshot, out: Path, flags: str) -> bool:
    """Prints how the run differs from the unbroken one, and returns whether it is equal."""
    tolerance, here = TOLERANCE if flags else 0.0, compare.read(out)
    found = compare.differences(wanted, here, tolerance) + compare.log_differences(straight, out, tolerance)
    lines = len(compare.read_jsonl(out / "metrics.jsonl"))
    what = f"{len(here.arrays)} arrays, {', '.join(compare.COUNTERS)}, {lines} lines of metrics"
    if found:
        for text in found[:10]:
            _say("DIFFERS", text)
        if more := found[10:]:
            _say("", f"and {len(more)} more")
        return False
    if not flags:
        _say("equal", f"bit for bit: {what}")
        return True
    far = max(compare.distance(x, here.arrays[name]) for name, x in wanted.arrays.items())
    _say("equal", f"within {TOLERANCE:g} under {flags}: {what}; arrays to {far:.1e}")
    return True


def _complete(out: Path) -> int:
    """The newest complete checkpoint, 0 for none."""
    return max((int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def _judge(status: int, out: Path, *wanted: int) -> None:
    """Raises the script's last line unless its exit status is among those wanted; as InputError for status 2."""
    if status in wanted:
        return
    said = out.with_suffix(".txt").read_text().strip().splitlines() or ["nothing"]
    raise (InputError if status == 2 else RunError)(
        f"the script ended with status {status}: {said[-1].removeprefix('error: ')} (all of it: {out}.txt)"
    )


def _say(word: str, text: str) -> None:
    print(f"{word:<9} {text}", flush=True)
