"""A run on the device that ends at SIGTERM or SIGKILL and goes on: the same bits as without, with --deterministic."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import jax

from checks.record import Config, Record
from jaxllm.checkpoint import compare
from jaxllm.recipes.script import run as run_script
from victim import PATIENCE_S, STEPS, Look, Victim, differences

FLAGS = ("--deterministic",)


def same(out: Path, whole: Path) -> list[str]:
    """In what a run that is through differs from the uninterrupted one: arrays, then logged numbers."""
    return differences(out, whole, STEPS)[1] + compare.log_differences(whole, out)


def strike(victim: Victim, whole: Path, how: signal.Signals) -> dict[str, object]:
    """Ends a run in its middle and lets it go on. A key `wrong` has what differs then."""
    out = victim.work / how.name
    look, child = Look(out), victim.start(out, *FLAGS)
    while child.poll() is None and look.taken() < STEPS // 2:
        time.sleep(0.005)
    began = time.monotonic()
    os.killpg(child.pid, how)
    status, seconds = child.wait(PATIENCE_S), time.monotonic() - began
    position, wrong = differences(out, whole, 0)
    if how == signal.SIGTERM and status != 143:
        wrong.append(f"status {status} instead of 143")
    if not 0 < position < STEPS:
        wrong.append(f"it left step {position}, of {STEPS}")
    victim.end(victim.start(out, *FLAGS), out)
    return {"left_step": position, "seconds_to_exit": seconds, "wrong": "; ".join(wrong + same(out, whole))}


def main(config: Config) -> None:
    """Runs the small run of kill_test.py uninterrupted, again, and twice with an end in its middle."""
    record = Record(config)
    # This process only names the device. A GPU's memory is the child's.
    victim = Victim(config.json.absolute().with_suffix(""), platform="cpu" if jax.default_backend() == "cpu" else "")
    whole = victim.whole(*FLAGS)
    record.add("a run to its end", True, steps=STEPS)
    if not config.small and not record.late("the same run again"):
        again = victim.work / "again"
        victim.end(victim.start(again, *FLAGS), again)
        wrong = "; ".join(same(again, whole))
        record.add("the same run again", not wrong, differs=wrong or "in no bit")
    for how in (signal.SIGTERM,) if config.small else (signal.SIGTERM, signal.SIGKILL):
        if not record.late(how.name):
            found = strike(victim, whole, how)
            wrong = found.pop("wrong")
            record.add(f"{how.name} and on", not wrong, **found, differs=wrong or "in no bit")
    record.end()


if __name__ == "__main__":
    run_script(main, Config)
