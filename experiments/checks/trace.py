"""The profiler's trace of ten train steps, and what took most of their time."""

from __future__ import annotations

import collections
import gzip
import json
from collections.abc import Mapping
from typing import Any

import jax

from checks import steps
from checks.record import Config, Record
from checks.steps import Stepper
from jaxllm.recipes.script import run as run_script

STEPS, MOST = 10, 8


def times_of(trace: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds by name of what ran on devices, or in XLA's threads on a CPU; the largest first.

    trace: in Chrome's format, events with a duration in microseconds and the process and thread that they are of.
    """
    events = trace.get("traceEvents", [])
    named = {(one.get("pid"), one.get("tid"), one["name"]): str(one.get("args", {}).get("name", ""))
             for one in events if one.get("ph") == "M"}  # fmt: skip
    total: collections.Counter[str] = collections.Counter()
    for one in events:
        if one.get("ph") != "X" or "dur" not in one:
            continue
        process = next((x for (pid, _, what), x in named.items() if pid == one["pid"] and what == "process_name"), "")
        thread = named.get((one["pid"], one.get("tid"), "thread_name"), "")
        device = "/device:" in process and thread not in ("Steps", "XLA Modules", "Source code", "Framework Ops")
        if one["name"].startswith("ThunkExecutor"):  # all of a program's operations together
            continue
        if device or thread.startswith("tf_XLA") or "XLAEigen" in thread or "XLATfrt" in thread:
            total[one["name"]] += one["dur"] / 1e3
    return dict(total.most_common())


def main(config: Config) -> None:
    """Traces, and names the largest."""
    record, folder = Record(config), config.json.absolute().with_suffix("")
    work = steps.pretraining("gpt2-124m", 2 if config.small else 16, 64 if config.small else 1024, config.small)
    stepper = Stepper(work, "none" if config.small else "attention")
    stepper.time(1)
    with jax.profiler.trace(str(folder)):
        for _ in range(STEPS):
            metrics = stepper()
        jax.block_until_ready(metrics)
    found = sorted(folder.rglob("*.trace.json.gz"))
    record.add("a trace", bool(found), steps=STEPS, files=len(list(folder.rglob("*.*"))), folder=str(folder))
    if found:
        with gzip.open(found[-1], "rt") as file:
            times = times_of(json.load(file))
        for name, x in list(times.items())[:MOST]:
            record.add(name[:60], time_ms=x, share=x / sum(times.values()))
    record.end()


if __name__ == "__main__":
    run_script(main, Config)
