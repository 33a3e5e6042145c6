"""Runs a planned step on the machine at hand, to hold the plan against it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import jax

from jaxllm.params import materialize
from jaxllm.plan.report import Report
from jaxllm.plan.text import gib
from jaxllm.run.usage import device_bytes, host_bytes, reset_peak
from jaxllm.train.setup import init_state, put
from jaxllm.types import InputError

STEPS = 10
SETTLE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """What steps took here, over all devices."""

    steps: int
    seconds: float
    """The median step's."""
    temporary_bytes: int | None
    """On a CPU what the process grew by at most while it made steps; else the devices' peak less what they hold."""
    peak_bytes: int | None
    """On a CPU what the process held at most, all of Python and its libraries included."""


def measure(report: Report, steps: int = STEPS) -> Measured:
    """Makes steps from initialised parameters with the compiled program. Raises InputError without the devices."""
    step = report.step
    devices = list(step.mesh.devices.flat)
    if any(device not in jax.devices() for device in devices):
        raise InputError(
            f"--measure with --topology {step.target.text}: these devices are not here; give cpu:N, or what is"
        )
    program, layout, batch = step.program, step.program.layout, step.batch
    state = init_state(dataclasses.replace(program.model, load=None), program.optimizer, layout)
    frozen = materialize(dataclasses.replace(program.model, load=None), layout.frozen, 0)
    count = jax.tree.leaves(batch)[0].shape[0]
    rows = put(batch, step.mesh, count, range(count), program.strategy)
    jax.block_until_ready((state, frozen, rows))
    before, times = None, list[float]()
    for n in range(steps + 1):  # the first brings in code and threads, and is not counted
        if n == 1:
            time.sleep(SETTLE_S)  # temporaries are freed a little after the results are there
            before = _held(devices)
        began = time.perf_counter()
        with jax.set_mesh(step.mesh):
            state, metrics = step.compiled(state, rows, frozen)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - began)
    after = _peak(devices)
    grown = None if before is None or after is None else after - before
    return Measured(steps, statistics.median(times[1:]), grown, after)


def _held(devices: list[Any]) -> int | None:
    """What the devices hold now; of a CPU what the process does, whose high-water mark begins anew here."""
    if devices[0].platform != "cpu":
        return _all(device_bytes(devices), devices)
    reset_peak()
    return host_bytes()


def _peak(devices: list[Any]) -> int | None:
    if devices[0].platform != "cpu":
        return _all(device_bytes(devices, peak=True), devices)
    return host_bytes(peak=True)


def _all(found: int | None, devices: list[Any]) -> int | None:
    return found and found * len(devices)


def json_of(report: Report, found: Measured) -> dict[str, Any]:
    """As JSON values."""
    return {
        "steps": found.steps, "step_seconds": found.seconds, "tokens_per_second": report.tokens / found.seconds,
        "temporary_bytes": found.temporary_bytes, "peak_bytes": found.peak_bytes,
        "tflops_per_device": report.model_flops / found.seconds / report.devices / 1e12,
        "mfu": report.mfu_in(found.seconds) if report.times else None,
    }  # fmt: skip


def text_of(report: Report, found: Measured) -> str:
    """Prediction and measurement side by side."""
    n, t = report.devices, report.times
    word = (
        "what the process grew by" if report.step.target.platform == "cpu" else "the devices' peak less what they hold"
    )
    temporaries = gib(found.temporary_bytes) if found.temporary_bytes is not None else "not known"
    lines = [
        "", f"{found.steps} steps on this machine      {'predicted':>14} {'measured':>14}",
        f"  temporaries, all devices    {gib(report.memory.temporaries * n):>14} {temporaries:>14}   {word}",
        f"  seconds a step              {f'{t.best:.4f}' if t else 'no peaks':>14} {found.seconds:>14.4f}   median",
        f"  tokens a second             {f'{report.tokens / t.best:,.0f}' if t else '':>14} "
        f"{report.tokens / found.seconds:>14,.0f}",
        f"  model TFLOP/s a device      {'':>14} {report.model_flops / found.seconds / n / 1e12:>14.4f}",
    ]  # fmt: skip
    if report.step.target.platform == "cpu":
        lines.append("  fake devices share this machine's cores, so their time says nothing of as many real ones")
    return "\n".join(lines)
