"""No step lost: a small run is killed, stopped, moved, damaged and starved of disk, and goes on as if nothing had been.

    python experiments/kill_test.py kill --trials 100
    python experiments/kill_test.py kill --trials 20 --processes 2
    python experiments/kill_test.py term --trials 30
    python experiments/kill_test.py damage --trials 60
    python experiments/kill_test.py move
    python experiments/kill_test.py full-disk          # as root: it mounts a small tmpfs

Expected: "lost: 0" at the end; figures and times in experiments/README.md.

The victim is experiments/pretrain.py on a decoder of a few thousand parameters, saving every second step. What stands
in its folder after each blow is compared, bit for bit, with what an uninterrupted run had at the same step; the next
start goes on from there, until the run is through and its last checkpoint and every logged number are compared too.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxllm.cli.script import run as run_script
from jaxllm.data import builtin
from jaxllm.train import manifest, snapshot
from jaxllm.train.checkpoint import Checkpoints
from jaxllm.types import InputError

STEPS, EVAL_EVERY = 60, 20
PATIENCE_S = 1200.0
"""The machine may be busy."""
PHASES = ("start-up", "compiling", "training", "saving", "evaluating")


@dataclasses.dataclass(frozen=True)
class Config:
    """Does something to a run, again and again, and looks what is left."""

    what: Annotated[str, tyro.conf.Positional]
    """kill (SIGKILL), term (SIGTERM), damage (bits of the newest checkpoint), move (to other meshes), full-disk."""
    trials: int = 10
    """How often."""
    processes: int = 1
    """Processes of the run, for kill and term."""
    seed: int = 0
    """Of the moments, bits and files."""
    work: str = "runs/kill-test"
    """Where the runs are; an uninterrupted one that is there already is taken."""


class Victim:
    """The run, in processes of its own."""

    def __init__(self, work: Path, processes: int = 1, devices: int = 1):
        self.work, self.processes, self.devices = work.absolute(), processes, devices
        self.work.mkdir(parents=True, exist_ok=True)
        model = {"vocab_size": 96, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "max_positions": 64}
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
            **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
            "XDG_CACHE_HOME": str(self.work / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_ENABLE_COMPILATION_CACHE": str(cached),
        }  # fmt: skip
        for name in ("JAXLLM_STARTED", "JAX_COMPILATION_CACHE_DIR"):
            environment.pop(name, None)
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                self.command(out, flags), env=environment, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def whole(self) -> Path:
        """The folder of the run that nothing happened to, with a checkpoint of every step."""
        out = self.work / f"whole-{self.processes}x{self.devices}"
        if not (out / "summary.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            end(self.start(out, "--checkpoint-every", "1", "--keep", "1000"), out, 0)
        return out


def end(child: subprocess.Popen[str], out: Path, wanted: int) -> None:
    """Waits for the child. Raises SystemExit with what it said if its status is another."""
    if (status := child.wait(PATIENCE_S)) != wanted:
        said = out.with_suffix(".log").read_text()[-2000:]
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
        return snapshot.read_jsonl(self.out / "metrics.jsonl")

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
        here = snapshot.read(out)
    except InputError as error:
        return 0, [str(error)] if floor else []
    if here.position < floor:
        found.append(f"checkpoint {floor} was complete, and {here.position} is what is left")
    return here.position, found + snapshot.differences(snapshot.read(whole, here.position), here)


def blows(
    config: Config, strike: Callable[[subprocess.Popen[str], Look, int, random.Random], dict[str, Any] | None]
) -> None:
    """Strikes until as many blows as wanted have landed; a run that gets through is compared, and another begins."""
    work, rng = Path(config.work), random.Random(config.seed)
    victim = Victim(work, config.processes)
    whole = victim.whole()
    landed: list[dict[str, Any]] = []
    lives, lost = 0, 0
    while len(landed) < config.trials:
        lives += 1
        out = victim.work / f"{config.what}-{config.processes}-{config.seed}" / str(lives)
        shutil.rmtree(out, ignore_errors=True)
        position = 0
        while not (out / "summary.json").exists():
            look = Look(out)
            cold = config.what == "term" and rng.random() < 0.4
            child = victim.start(out, cached=not cold)
            willing = len(landed) < config.trials and position < STEPS - 4
            blow = strike(child, look, position, rng) if willing else None
            if blow is None:
                end(child, out, 0)
                continue
            position, wrong = differences(out, whole, blow["floor"])
            wrong += blow.pop("wrong")
            landed.append({**blow, "life": lives, "left": position, "wrong": wrong})
            lost += bool(wrong)
            print(json.dumps(landed[-1]), flush=True)
        position, wrong = differences(out, whole, STEPS)
        wrong += snapshot.log_differences(whole, out)
        lost += bool(wrong)
        print(f"run {lives} is through: {'; '.join(wrong) or 'as the uninterrupted one'}", flush=True)
    where = collections.Counter(blow["phase"] for blow in landed)
    print(f"{len(landed)} blows in {lives} runs: " + ", ".join(f"{n} {phase}" for phase, n in where.most_common()))
    if times := sorted(blow["seconds"] for blow in landed if "seconds" in blow):
        print(f"seconds to exit: median {times[len(times) // 2]:.2f}, longest {times[-1]:.2f}")
    print(f"lost: {lost}")
    raise SystemExit(bool(lost))


def kill(child: subprocess.Popen[str], look: Look, resumed: int, rng: random.Random) -> dict[str, Any] | None:
    """SIGKILL within start-up and compiling, or at a random moment of what follows; None if the run was through."""
    several = "jaxllm.launch" in child.args  # type: ignore[operator]
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.5, 6))
    else:
        target = rng.uniform(resumed, STEPS + 1)  # a step, of which the rest is a time
        while child.poll() is None and look.taken() < int(target):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
    floor = max(look.complete(), default=0)
    if child.poll() is not None:
        return None
    whom = rng.choice(["all", "0", "1"]) if several else "all"
    if whom != "all" and len(processes := children(child.pid)) == 2:
        os.kill(processes[int(whom)], signal.SIGKILL)
    else:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(PATIENCE_S)
    return {"phase": look.phase(resumed), "whom": whom, "floor": floor, "wrong": []}


def term(child: subprocess.Popen[str], look: Look, resumed: int, rng: random.Random) -> dict[str, Any] | None:
    """SIGTERM within a phase that is chosen first; None if it did not come to that."""
    wanted = rng.choice(PHASES)
    if wanted == "start-up":
        time.sleep(rng.uniform(0.3, 2.5))
    else:
        first = rng.uniform(resumed, STEPS)
        while child.poll() is None and not (look.phase(resumed) == wanted and look.taken() >= min(first, resumed)):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5 if wanted == "compiling" else 0.03))
    floor, phase = max(look.complete(), default=0), look.phase(resumed)
    taken = look.taken() if phase not in ("start-up", "compiling") else 0
    if child.poll() is not None:
        return None
    began = time.monotonic()
    child.terminate()
    status = child.wait(PATIENCE_S)
    seconds, wrong = time.monotonic() - began, []
    if (out := look.out / "summary.json").exists():  # it was through when the signal came
        return None
    if status not in (143, -signal.SIGTERM):
        wrong.append(f"status {status}: {out.parent.with_suffix('.log').read_text()[-500:]}")
    return {"phase": phase, "floor": max(floor, taken), "status": status, "seconds": seconds, "wrong": wrong}


def children(pid: int) -> list[int]:
    """The processes that a process started, in their order."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def damage(config: Config) -> None:
    """Flips a bit of the newest checkpoint, or cuts or empties a file of it: it must be named, and not be used."""
    rng = random.Random(config.seed)
    victim = Victim(Path(config.work))
    whole, folder = victim.whole(), victim.work / "damaged" / "checkpoints"
    sound = {position: snapshot.read(whole, position) for position in (STEPS - 1, STEPS)}
    wrong = 0
    how: collections.Counter[str] = collections.Counter()
    for trial in range(config.trials + config.trials // 3):
        shutil.rmtree(folder.parent, ignore_errors=True)
        for position in sound:
            shutil.copytree(whole / "checkpoints" / str(position), folder / str(position))
        paths = sorted(path for path in (folder / str(STEPS)).rglob("*") if path.is_file() and path.stat().st_size)
        sizes = [path.stat().st_size for path in paths]
        path = rng.choices(paths, sizes)[0] if trial % 2 else rng.choice(paths)  # by bytes, and by files
        good = bytearray(path.read_bytes())
        kind = "flipped" if trial < config.trials else rng.choice(["cut", "emptied"])
        if kind == "flipped":
            good[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        else:
            del good[0 if kind == "emptied" else rng.randrange(len(good)) :]
        path.write_bytes(bytes(good))
        checkpoints = Checkpoints(folder)
        named = checkpoints.problem(STEPS)
        restored = checkpoints.newest(snapshot.like(sound[STEPS].meta))
        checkpoints.close()
        assert restored is not None
        state, position, meta = restored
        items = {"params": state.params, "opt_state": state.opt_state}
        arrays = {f"{item}/{name}": x for item, part in items.items() for name, x in part.items()}
        here = snapshot.Snapshot({name: snapshot.np.asarray(x) for name, x in arrays.items()}, meta)
        if (differs := snapshot.differences(sound[position], here)) or position == STEPS or not named:
            wrong += 1
            print(f"{kind} {path.relative_to(folder)}: took {position}: {named}; {'; '.join(differs)}", flush=True)
        how[kind] += 1
    print(f"{dict(how)}: lost: {wrong}")
    raise SystemExit(bool(wrong))


def main(config: Config) -> None:
    """Runs what is asked for."""
    if config.what in ("kill", "term"):
        blows(config, {"kill": kill, "term": term}[config.what])
    elif config.what == "damage":
        damage(config)
    else:
        raise InputError(f"{config.what}: give kill, term, damage, move or full-disk")


if __name__ == "__main__":
    run_script(main, Config)
