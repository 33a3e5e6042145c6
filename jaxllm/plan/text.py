"""A plan in words: the whole of it as text, and its summary in one line."""

from __future__ import annotations

import math

import jax

from jaxllm.distributed.chips import GIB
from jaxllm.params import count
from jaxllm.plan.report import Report


def text_of(report: Report, tokens: float = 0.0) -> str:
    """The plan as text. tokens: of a whole training, for its time and chip-hours; 0 for none."""
    return "\n".join([*_head(report), "", *_memory(report), "", *_compute(report), "", *_communication(report),
                      *_time(report, tokens), *(f"\nnote: {note}" for note in report.notes)])  # fmt: skip


def summary_of(r: Report) -> str:
    """Memory, time and what bounds it, in one line."""
    t, chip, peak = r.times, r.step.target.chip, r.memory.peak
    if t is None or chip is None:
        return f"{r.step.target.text}: {gib(peak)} a device, of a program for CPUs"
    room = chip.memory * r.share
    fits = "" if peak <= room else ", which DOES NOT FIT"
    return (
        f"{r.step.target.text}: {gib(peak)} of {gib(room)} a chip{fits}; a step of {t.best * 1e3:,.0f} ms at best, "
        f"MFU {r.mfu_in(t.best):.1%}, bound by {t.bound} ({t.apart * 1e3:,.0f} ms, {r.mfu_in(t.apart):.1%} with no "
        "communication overlapped)"
    )


def _head(r: Report) -> list[str]:
    target, params = r.step.target, r.step.program.model.graphdef.abstract
    mesh = ",".join(f"{axis}={n}" for axis, n in r.step.mesh.shape.items() if n > 1) or "one device"
    what = f"{target.chip.kind}" if target.chip else "CPU devices, a stand-in: memory and FLOPs are XLA:CPU's program's"
    rows = jax.tree.leaves(r.step.batch)[0].shape
    return [
        f"{target.text}  {target.devices} x {what}, mesh {mesh}",
        f"{count(params):,} parameters; {rows[0]} rows of {rows[1]} positions a step, {r.tokens:,} tokens; "
        f"compiled in {r.step.compile_seconds:.1f} s",
    ]


def gib(n: float) -> str:
    """Bytes as GiB, or a smaller unit."""
    for unit, size in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size / 10:
            return f"{n / size:.3f} {unit}"
    return f"{n:.0f} B"


def _memory(r: Report) -> list[str]:
    m, chip = r.memory, r.step.target.chip
    lines = [
        "memory of each device",
        f"  arguments    {gib(m.arguments):>12}   parameters {gib(r.parameter_bytes)}, "
        f"optimizer {gib(r.optimizer_bytes)}, batch {gib(r.batch_bytes)}",
        f"  temporaries  {gib(m.temporaries):>12}",
        f"  peak         {gib(m.peak):>12}   as the compiler states it; outputs {gib(m.outputs)}, of which "
        f"{gib(m.aliased)} lie where the donated state was",
    ]
    if chip is not None:
        room = chip.memory * r.share - m.peak
        word, end = ("headroom", "") if room >= 0 else ("TOO LARGE", ": it does not fit")
        lines.append(f"  {word:<9}    {gib(abs(room)):>12}   of {gib(chip.memory * r.share)}{end}")
        if r.step.target.platform == "gpu" and 0 <= room < 4 * GIB:
            lines.append("               NCCL, cuBLAS and cuDNN want room beside it")
    lines.append("  largest buffers at the peak")
    for one in r.buffers:
        lines.append(f"    {gib(one.bytes):>12}  {one.array:<28} {one.what}  {one.sharding}  {one.place}".rstrip())
    return lines


def _compute(r: Report) -> list[str]:
    over = r.hardware_flops / r.model_flops if r.model_flops else math.nan
    return [
        "compute of a step, all devices",
        f"  model FLOPs     {r.model_flops:.4e}",
        f"  hardware FLOPs  {r.hardware_flops:.4e}   {over:.2f} times the model's: what is recomputed or masked",
    ]


def _communication(r: Report) -> list[str]:
    rows = r.joined()
    lines = ["communication of a step: what each device sends" if rows else "communication: none"]
    for one in rows[:24]:
        what = f"{one.axis}: {one.what} by {one.kind}, {one.trips} times, {gib(one.bytes)} over {one.link}"
        time = f", {one.seconds * 1e3:.2f} ms" if one.seconds else ""
        lines.append(f"  {what}{time}  {one.place}".rstrip())
    if rows[24:]:
        lines.append(f"  and {len(rows) - 24} smaller, {gib(sum(one.bytes for one in rows[24:]))}")
    return lines


def _time(r: Report, tokens: float) -> list[str]:
    t = r.times
    if t is None:
        return ["", "time: no table has the peaks of a CPU"]
    links = "".join(f", {link} {s * 1e3:.1f} ms" for link, s in t.links.items())
    lines = [
        "",
        "time of a step at best",
        f"  compute {t.compute * 1e3:.1f} ms, memory {t.memory * 1e3:.1f} ms{links}: bound by {t.bound}",
        f"  {t.best * 1e3:.1f} ms with all overlapped, MFU {r.mfu_in(t.best):.1%}, {r.tokens / t.best:,.0f} tokens/s "
        f"({r.tokens / t.best / r.step.target.devices:,.0f} a chip)",
        f"  {t.apart * 1e3:.1f} ms with no communication overlapped, MFU {r.mfu_in(t.apart):.1%}",
    ]
    if tokens:
        for word, s in (("at best", t.best), ("without overlap", t.apart)):
            hours = tokens / r.tokens * s / 3600
            lines.append(f"  {tokens:g} tokens: {hours:,.1f} h, {hours * r.step.target.devices:,.0f} chip-hours {word}")
    return lines
