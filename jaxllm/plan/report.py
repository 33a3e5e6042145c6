"""A plan: all figures of a compiled step, and as one JSON object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

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
