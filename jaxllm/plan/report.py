"""A plan: all figures of a compiled step, as one JSON object and as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxllm.distributed.chips import GIB
from jaxllm.params import count
from jaxllm.plan import collectives, memory, roofline
from jaxllm.plan.collectives import Collective, Parameter
from jaxllm.plan.groups import Links
from jaxllm.plan.hlo import parse
from jaxllm.plan.kernels import kernel_flops
from jaxllm.plan.memory import Buffer, Memory
from jaxllm.plan.program import Cost
from jaxllm.plan.roofline import Times
from jaxllm.plan.step import Step
from jaxllm.train.setup import Program


@dataclasses.dataclass(frozen=True)
class Report:
    """What a step costs. FLOPs are of all devices, bytes of one."""

    step: Step
    memory: Memory
    parameter_bytes: int
    frozen_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    buffers: list[Buffer]
    model_flops: float
    hardware_flops: float
    traffic: float
    collectives: list[Collective]
    times: Times | None
    """None on a CPU, whose peaks no table has."""
    tokens: int
    """Positions in a step that are not padding."""
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        """All devices."""
        return self.step.mesh.size

    @property
    def mfu(self) -> float | None:
        """Model FLOPs over what the chips could do in the step's time at best."""
        return self.mfu_in(self.times.best) if self.times else None

    def mfu_in(self, seconds: float) -> float:
        """Of a step that takes so long."""
        chip = self.step.target.chip
        assert chip is not None
        return self.model_flops / (seconds * chip.flops * self.step.target.devices)

    def json(self) -> dict[str, Any]:
        """The plan as JSON values. collectives: those of one axis, kind and content joined."""
        t, m = self.times, self.memory
        chip = self.step.target.chip
        return {
            "topology": self.step.target.text,
            "mesh": {axis: n for axis, n in self.step.mesh.shape.items() if n > 1},
            "devices": self.devices,
            "stand_in": self.step.target.platform == "cpu",
            "peak_bytes_per_device": m.peak,
            "memory_bytes_per_device": chip and int(chip.memory * self.share),
            "argument_bytes": m.arguments,
            "temporary_bytes": m.temporaries,
            "output_bytes": m.outputs,
            "aliased_bytes": m.aliased,
            "parameter_bytes": self.parameter_bytes,
            "optimizer_bytes": self.optimizer_bytes,
            "frozen_bytes": self.frozen_bytes,
            "batch_bytes": self.batch_bytes,
            "buffers": [dataclasses.asdict(one) for one in self.buffers],
            "tokens": self.tokens,
            "model_flops": self.model_flops,
            "hardware_flops": self.hardware_flops,
            "memory_traffic_bytes": self.traffic,
            "collectives": [
                {"axis": one.axis, "kind": one.kind, "what": one.what, "bytes": one.bytes, "trips": one.trips,
                 "link": one.link, "seconds": one.seconds, "place": one.place}
                for one in self.joined()
            ],
            "bound": t and t.bound,
            "step_seconds": t and t.best,
            "step_seconds_without_overlap": t and t.apart,
            "compute_seconds": t and t.compute,
            "memory_seconds": t and t.memory,
            "link_seconds": t and dict(t.links),
            "mfu": self.mfu,
            "mfu_without_overlap": t and self.mfu_in(t.apart),
            "tokens_per_second": t and self.tokens / t.best,
            "compile_seconds": self.step.compile_seconds,
            "notes": list(self.notes),
        }  # fmt: skip

    @property
    def share(self) -> float:
        """The share of a chip that a device is."""
        return self.step.target.devices / self.devices

    def joined(self) -> list[Joined]:
        """Collectives alike in axis, kind and content as one, those with most bytes first."""
        found: dict[tuple[str, str, str, str], list[Collective]] = {}
        for one in self.collectives:
            found.setdefault((one.axis, one.kind, one.what, one.link), []).append(one)
        rows = [
            Joined(axis, kind, what, link, sum(one.bytes for one in each), sum(one.trips for one in each),
                   sum(map(self.seconds, each)), max(each, key=lambda one: one.bytes).place)
            for (axis, kind, what, link), each in found.items()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -row.bytes)

    def seconds(self, one: Collective) -> float:
        """Of a collective, at best; 0 on a CPU."""
        target, mesh = self.step.target, self.step.mesh
        if target.chip is None:
            return 0.0
        links = Links.of(target.platform, mesh)
        return roofline.seconds(target.chip, self.share, one, links, dims_of([one], mesh))


@dataclasses.dataclass(frozen=True)
class Joined:
    """Collectives that are alike."""

    axis: str
    kind: str
    what: str
    link: str
    bytes: float
    trips: int
    seconds: float
    place: str


def dims_of(found: Iterable[Collective], mesh: Any) -> dict[tuple[int, ...], int]:
    """How many dimensions of the torus each group spans, by the coordinates of its devices."""
    devices = list(mesh.devices.flat)
    spans = {}
    for one in found:
        coords = [getattr(devices[i], "coords", None) for i in one.group]
        if coords and coords[0] is not None:
            spans[one.group] = max(1, sum(len(set(axis)) > 1 for axis in zip(*coords, strict=True)))
    return spans


def make_report(step: Step, notes: Iterable[str] = (), buffers: int = 10) -> Report:
    """All figures of a compiled step. buffers: how many of the largest to name."""
    program, target, mesh = step.program, step.target, step.mesh
    module, like = parse(step.text), program.layout.like
    abstract = program.model.graphdef.abstract
    cost = Cost(module, kernel_flops(program.model, step.batch))
    hardware = cost.flops() * mesh.size
    links = Links.of(target.platform, mesh)
    found = collectives.find(cost, mesh, parameters_of(program), links)
    traffic, times = cost.traffic(), None
    if target.chip is not None:
        share = target.devices / mesh.size
        times = roofline.estimate(target.chip, share, cost.by_dtype(), traffic, found, links, dims_of(found, mesh))
    batch = getattr(step.batch, "batch", step.batch)
    frozen = sum(_held(abstract[name], at) for name, at in program.layout.frozen.items())
    lines = [*notes]
    if cost.unknown:
        lines.append(
            f"no formula knows the FLOPs of {len(cost.unknown)} kernels: {', '.join(sorted(cost.unknown))[:200]}"
        )
    return Report(
        step, memory.memory_of(step.compiled, target.platform), memory.held(like.params) + frozen, frozen,
        memory.held(like.opt_state), _batch_bytes(step), memory.largest(step, module, buffers)[1],
        program.flops.of(step.batch), hardware, traffic, found, times,
        int(np.count_nonzero(batch.segments_BT)), tuple(lines),
    )  # fmt: skip


def parameters_of(program: Program) -> list[Parameter]:
    """The parameters of one layer, and how each is cut."""
    places, found = {**program.layout.params, **program.layout.frozen}, []
    for name, x in program.model.graphdef.abstract.items():
        spec = (*places[name].spec, *(None,) * (x.ndim - len(places[name].spec)))
        cut = tuple(axes if isinstance(axes, tuple) else (axes,) if axes else () for axes in spec)
        stacked = name.startswith("blocks.")
        if math.prod(x.shape[stacked:]) > 16:
            found.append(Parameter(name, tuple(x.shape[stacked:]), cut[stacked:]))
    return found


def _held(x: jax.ShapeDtypeStruct, at: Any) -> int:
    return math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize


def _batch_bytes(step: Step) -> int:
    from jaxllm.plan.step import shapes_of

    return memory.held(shapes_of(step.batch, step.mesh))


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
