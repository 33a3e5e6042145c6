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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxllm.checkpoint import compare
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError
from victim import PATIENCE_S, STEPS, Look, Victim, differences

PHASES = ("start-up", "compiling", "training", "saving", "evaluating")

Child = subprocess.Popen[str]


@dataclasses.dataclass(frozen=True)
class Config:
    """Kills or damages a run, again and again, and checks that it goes on as if nothing had happened."""

    what: Annotated[str, tyro.conf.Positional]
    """What is done to the run: kill (SIGKILL), term (SIGTERM), damage (flip bits of the newest checkpoint), move (go on
    under other meshes), or full-disk."""
    trials: int = 10
    """Number of times that it is done."""
    processes: int = 1
    """Number of processes of the run, for kill and term."""
    seed: int = 0
    """Seed of the moments, bits and files."""
    work: str = "runs/kill-test"
    """Folder of the runs; an uninterrupted run that is there already is used again."""


def blows(config: Config, strike: Callable[[Child, Look, int, random.Random, int], dict[str, Any] | None]) -> None:
    """Strikes until as many blows as wanted have landed; a run that gets through is compared, and another begins."""
    work, rng = Path(config.work), random.Random(config.seed)
    victim = Victim(work, config.processes)
    whole = victim.whole()
    landed: list[dict[str, Any]] = []
    lives = lost = unasked = 0
    while len(landed) < config.trials:
        lives += 1
        out = victim.work / f"{config.what}-{config.processes}-{config.seed}" / str(lives)
        shutil.rmtree(out, ignore_errors=True)
        position = 0
        while not (out / "summary.json").exists():
            look = Look(out)
            cold = config.what == "term" and len(landed) % len(PHASES) == PHASES.index("compiling")
            child = victim.start(out, cached=not cold)
            willing = len(landed) < config.trials and position < STEPS - 4
            blow = strike(child, look, position, rng, len(landed)) if willing else None
            if blow is None:
                if child.wait(PATIENCE_S) and (unasked := unasked + 1) > 3:
                    raise SystemExit(f"it ends by itself: {victim.log(out).read_text()[-2000:]}")
                continue
            position, wrong = differences(out, whole, blow["floor"])
            wrong += blow.pop("wrong")
            landed.append({**blow, "life": lives, "left": position, "wrong": wrong})
            lost += bool(wrong)
            print(json.dumps(landed[-1]), flush=True)
        position, wrong = differences(out, whole, STEPS)
        wrong += compare.log_differences(whole, out)
        lost += bool(wrong)
        print(f"run {lives} is through: {'; '.join(wrong) or 'as the uninterrupted one'}", flush=True)
    where = collections.Counter(blow["phase"] for blow in landed)
    print(
        f"{len(landed)} blows in {lives} runs, {unasked} ends unasked: "
        + ", ".join(f"{n} {phase}" for phase, n in where.most_common())
    )
    if times := sorted(blow["seconds"] for blow in landed if "seconds" in blow):
        print(f"seconds to exit: median {times[len(times) // 2]:.2f}, longest {times[-1]:.2f}")
    print(f"lost: {lost}")
    raise SystemExit(bool(lost))


def kill(child: Child, look: Look, resumed: int, rng: random.Random, number: int) -> dict[str, Any] | None:
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


def term(child: Child, look: Look, resumed: int, rng: random.Random, number: int) -> dict[str, Any] | None:
    """SIGTERM within each phase in turn; None if it did not come to that."""
    wanted = PHASES[number % len(PHASES)]
    if wanted == "start-up":
        time.sleep(rng.uniform(0.3, 2.5))
    else:
        step = rng.randrange(resumed, STEPS) if wanted in ("training", "saving") else 0
        while child.poll() is None and not (look.phase(resumed) == wanted and look.taken() >= step):
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
    if (look.out / "summary.json").exists():  # it was through when the signal came
        return None
    if status not in (143, -signal.SIGTERM):
        wrong.append(f"status {status}")
    return {"phase": phase, "floor": max(floor, taken), "status": status, "seconds": seconds, "wrong": wrong}


def children(pid: int) -> list[int]:
    """The processes that a process started, in their order."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def harm(checkpoint: Path, kind: str, rng: random.Random, by_bytes: bool) -> Path:
    """Flips a bit of a file, cuts or empties it. by_bytes: of the files, a large one is likelier."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choices(paths, [path.stat().st_size for path in paths] if by_bytes else None)[0]
    good = bytearray(path.read_bytes())
    if kind == "flipped":
        good[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    else:
        del good[0 if kind == "emptied" else rng.randrange(len(good)) :]
    path.write_bytes(bytes(good))
    return path


def begun(whole: Path, out: Path, position: int) -> Path:
    """A copy of a run's folder as it was after so many steps."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out, ignore=lambda _, names: [n for n in names if n.isdigit() and int(n) > position])
    (out / "summary.json").unlink()
    return out


def damage(config: Config) -> None:
    """Flips a bit of the newest checkpoint, or cuts or empties a file of it: it must be named, and not be used."""
    rng = random.Random(config.seed)
    victim = Victim(Path(config.work))
    whole, folder = victim.whole(), victim.work / "damaged" / "checkpoints"
    sound = {position: compare.read(whole, position) for position in (STEPS - 1, STEPS)}
    wrong = 0
    how: collections.Counter[str] = collections.Counter()
    for trial in range(config.trials + config.trials // 3):
        shutil.rmtree(folder.parent, ignore_errors=True)
        for position in sound:
            shutil.copytree(whole / "checkpoints" / str(position), folder / str(position))
        kind = "flipped" if trial < config.trials else rng.choice(["cut", "emptied"])
        path = harm(folder / str(STEPS), kind, rng, by_bytes=bool(trial % 2))
        checkpoints = Checkpoints(folder)
        named = checkpoints.problem(STEPS)
        restored = checkpoints.newest(compare.like(sound[STEPS].meta))
        checkpoints.close()
        assert restored is not None
        state, position, meta = restored
        items = {"params": state.params, "opt_state": state.opt_state}
        arrays = {f"{item}/{name}": x for item, part in items.items() for name, x in part.items()}
        here = compare.Snapshot({name: np.asarray(x) for name, x in arrays.items()}, meta)
        if (differs := compare.differences(sound[position], here)) or position == STEPS or not named:
            wrong += 1
            print(f"{kind} {path.relative_to(folder)}: took {position}: {named}; {'; '.join(differs)}", flush=True)
        how[kind] += 1
    out = begun(whole, victim.work / "harmed", STEPS // 2)
    harm(out / "checkpoints" / str(STEPS // 2), "flipped", rng, by_bytes=True)
    victim.log(out).unlink(missing_ok=True)
    victim.end(victim.start(out), out)
    found = differences(out, whole, STEPS)[1] + compare.log_differences(whole, out)
    said = victim.log(out).read_text().strip()
    print(f"the run said: {said}: {'; '.join(found) or 'and went on'}")
    wrong += bool(found) or f"checkpoint {STEPS // 2} of" not in said
    print(f"{dict(how)}: lost: {wrong}")
    raise SystemExit(bool(wrong))


def move(config: Config) -> None:
    """A run on fsdp=8 goes on from its middle on one device, on data=2,tensor=4 and in two processes of two devices."""
    work, middle, wrong = Path(config.work), STEPS // 2, 0
    whole = Victim(work, devices=8).whole("--mesh", "fsdp=8")
    wanted = compare.read(whole)
    for processes, devices, mesh in ((1, 1, "data=1"), (1, 8, "data=2,tensor=4"), (2, 2, "data=2,fsdp=2")):
        victim = Victim(work, processes, devices)
        out = begun(whole, victim.work / f"moved-{processes}x{devices}", middle)
        victim.end(victim.start(out, "--mesh", mesh), out)
        here = compare.read(out)
        found = compare.differences(wanted, here, 1e-5) + compare.log_differences(whole, out, 1e-5)
        far = max(compare.distance(x, here.arrays[name]) for name, x in wanted.arrays.items())
        losses = [[line["loss"] for line in compare.read_jsonl(run / "metrics.jsonl") if "loss" in line]
                  for run in (whole, out)]  # fmt: skip
        apart = max(abs(x - y) for x, y in zip(*losses, strict=True))
        print(f"{processes} processes of {devices} devices, {mesh}: losses of steps {middle + 1} to {STEPS} to "
              f"{apart:.1e}, arrays to {far:.1e}; {'; '.join(found) or 'all within 1e-5'}", flush=True)  # fmt: skip
        wrong += bool(found)
    print(f"lost: {wrong}")
    raise SystemExit(bool(wrong))


def full_disk(config: Config) -> None:
    """The disk is full at some checkpoint; then it is made larger, and the run goes on."""
    rng, wrong = random.Random(config.seed), 0
    victim = Victim(Path(config.work))
    whole, disk = victim.whole(), victim.work / "disk"
    disk.mkdir(exist_ok=True)
    for _ in range(config.trials):
        size = rng.randrange(600, 4000)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
        try:
            out = disk / "run"
            victim.log(out).unlink(missing_ok=True)
            status = victim.start(out, "--keep", "1000").wait(PATIENCE_S)
            said = victim.log(out).read_text().strip().splitlines()
            complete = max(Look(out).complete(), default=0)
            position, found = differences(out, whole, complete)
            if status != 1 or len(said) != 1 or not said[0].startswith("error: "):
                found.append(f"status {status}")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            victim.end(victim.start(out), out)
            found += differences(out, whole, STEPS)[1] + compare.log_differences(whole, out)
            print(f"{size} KB, full after {position}: {' / '.join(said)}: {'; '.join(found) or 'went on'}", flush=True)
            wrong += bool(found)
        finally:
            subprocess.run(["umount", disk], check=True)
    print(f"{config.trials} disks filled, lost: {wrong}")
    raise SystemExit(bool(wrong))


def main(config: Config) -> None:
    """Runs what is asked for."""
    strikes = {"kill": kill, "term": term}
    others = {"damage": damage, "move": move, "full-disk": full_disk}
    if config.what in strikes:
        blows(config, strikes[config.what])
    elif config.what in others:
        others[config.what](config)
    else:
        raise InputError(f"{config.what}: give {', '.join([*strikes, *others])}")


if __name__ == "__main__":
    run_script(main, Config)
