"""The collectives of a compiled program: which axes of the mesh they go over, what they move, and how many bytes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxllm.plan.hlo import Computation, Instruction, Module
from jaxllm.plan.program import Cost

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
          "collective-broadcast")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the program, over all its runs in a step."""

    axis: str
    """Mesh axes joined by +, or "none" where the groups follow none."""
    kind: str
    what: str
    """What it moves."""
    bytes: float
    """What each device sends in a step, over all trips."""
    trips: int
    """How often it runs in a step."""
    members: int
    """Devices in a group."""
    link: str
    shape: str
    place: str
    group: tuple[int, ...] = ()
    """Places in the mesh of the devices of one group."""


def find(cost: Cost, mesh: Mesh, params: Mapping[str, tuple[int, ...]], links: Links) -> list[Collective]:
    """All collectives of a program, each once with its trips. params: local shapes of a layer's parameters by name."""
    found = []
    module = cost.module
    for computation, x, times in cost.walk(fusions=True):
        kind = x.opcode.removesuffix("-start")
        if kind not in _KINDS:
            continue
        if kind == "all-reduce" and _scatters(computation, x):
            kind = "reduce-scatter"
        groups = groups_of(x, mesh.size)
        one = max(groups, key=len) if groups else tuple(range(mesh.size))
        members = len(one)
        if members == 1 and kind != "collective-permute":
            continue
        ring = kind == "collective-permute"
        axis = axes_of(groups, mesh) if groups else "+".join(a for a, n in mesh.shape.items() if n > 1)
        size = _payload(kind, computation, x)
        if ring:
            group = _ring(x, mesh)
            members = len(group) or 2
            size *= len(groups) / max(1, len(groups))
            one = group or one
        sent = sent_bytes(kind, size, members)
        if not sent:
            continue
        found.append(
            Collective(
                axis, kind, _what(kind, axis, x, computation, params, module), sent * times, times, members,
                links.between(one), str(x.result[-1]), module.place(x), one,
            )  # fmt: skip
        )
    return found


def sent_bytes(kind: str, size: float, members: int) -> float:
    """What each device sends: size is that of the whole gathered or reduced array, of a permute what is passed on.

    An all-reduce is a reduce-scatter and an all-gather (Thakur et al. 2005).
    """
    share = (members - 1) / members if members else 0.0
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, share)
    return size * factor


def _payload(kind: str, computation: Computation, x: Instruction) -> float:
    """The whole array: of an all-gather its result, of others what they are given."""
    if kind == "all-gather":
        results = x.result
        if x.opcode.endswith("-start"):  # (what was given, the result)
            results = x.result[len(x.operands) : 2 * len(x.operands)]
        return float(sum(y.bytes for y in results))
    return float(sum(y.bytes for y in computation.operands(x)))


def _scatters(computation: Computation, x: Instruction) -> bool:
    """Whether each device keeps only its part of an all-reduce: a TPU's reduce-scatter is such a fusion."""
    if "all-reduce-scatter" in computation.name:
        return True
    users = computation.users.get(x.name, [])
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users) and "fused" in computation.name


def groups_of(x: Instruction, devices: int) -> list[tuple[int, ...]]:
    """The groups of places in the mesh that take part in it; empty for all. Of a permute its pairs."""
    if pairs := x.attribute("source_target_pairs"):
        return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs)]
    text = x.attribute("replica_groups")
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims = ([int(n) for n in part.split(",")] for part in iota.groups()[:2])
        places = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            places = places.transpose([int(n) for n in iota[3].split(",")])
        return [tuple(row) for row in places.reshape(shape).tolist()]
    if text.startswith("mesh["):
        return _mesh_groups(text)
    return [tuple(map(int, part.split(","))) for part in re.findall(r"\{([\d,]+)\}", text)]


def _mesh_groups(text: str) -> list[tuple[int, ...]]:
    """Of text such as mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, where an axis may be cut: 'axis_1':(2)2."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", text.partition("]")[0])}
    places = np.arange(math.prod(sizes.values()))
    if ids := re.search(r"device_ids=\(([\d,]+)\)", text):
        places = np.array([int(n) for n in ids[1].split(",")])
    elif iota := re.search(r"device_ids=\(?\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        dims = [int(n) for n in iota[2].split(",")]
        places = np.arange(math.prod(dims)).reshape(dims)
        places = places.transpose([int(n) for n in iota[3].split(",")]) if iota[3] else places
        places = places.reshape(-1)
    asked = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", text.rpartition("{")[2])
    shape: list[int] = []
    chosen: list[int] = []
    where: dict[tuple[str, int], int] = {}
    for name, size in sizes.items():
        cuts = sorted({(int(pre), int(n)) for a, pre, n in asked if a == name and pre})
        parts = [size]
        if cuts:
            before, n = cuts[0]
            parts = [before, n, size // before // n]
        for i, part in enumerate(parts):
            where[(name, i if cuts else -1)] = len(shape)
            shape.append(part)
    for name, pre, _ in asked:
        chosen.append(where[(name, 1 if pre else -1)])
    others = [i for i in range(len(shape)) if i not in chosen]
    grouped = places.reshape(shape).transpose([*others, *chosen])
    return [tuple(row) for row in grouped.reshape(-1, math.prod(shape[i] for i in chosen)).tolist()]


def axes_of(groups: Sequence[Sequence[int]], mesh: Mesh) -> str:
    """The mesh axes along which the members of a group differ, joined by +."""
    sizes = tuple(mesh.shape.values())
    varying: set[str] = set()
    for group in groups:
        coordinates = np.array(np.unravel_index(np.asarray(group), sizes))
        varying |= {name for name, row in zip(mesh.shape, coordinates, strict=True) if len(set(row.tolist())) > 1}
    return "+".join(name for name in mesh.shape if name in varying) or "none"


def _ring(x: Instruction, mesh: Mesh) -> tuple[int, ...]:
    """The devices that a permute passes something round, from its first pair."""
    following = dict(groups_of(x, mesh.size))
    if not following:
        return ()
    first = next(iter(following))
    found, at = [first], following[first]
    while at != first and at in following and len(found) <= mesh.size:
        found.append(at)
        at = following[at]
    return tuple(found if at in found else [*found, at])


def _what(
    kind: str, axis: str, x: Instruction, computation: Computation, params: Mapping[str, tuple[int, ...]], module: Module
) -> str:
    """What is moved, in words, from the axis, JAX's name of the operation, and shapes."""
    sizes = {tuple(n for n in y.shape if n > 1) for y in (*x.result, *(z for o in computation.operands(x) for z in o.result))}
    names = [name for name, shape in params.items() if _same(shape, sizes)]
    named = re.sub(r"^blocks\.", "", min(names, key=len)) if names else ""
    if all(math.prod(y.shape) <= 16 for y in x.result):
        return "sums of metrics and counts"
    backward = "transpose(" in x.op_name
    if axis == "context":
        return "keys and values" if not backward else "keys, values and their gradients"
    if "expert" in axis.split("+"):
        return "tokens of experts"
    if names and set(axis.split("+")) <= {"data", "fsdp", "tensor", "none"}:
        if kind in ("reduce-scatter", "all-reduce"):
            return f"gradients summed ({named})" if kind == "all-reduce" else f"gradients scattered ({named})"
        if kind in ("all-gather", "collective-permute"):
            return f"parameters gathered ({named})"
    verb = {"all-gather": "gathered", "all-reduce": "summed", "reduce-scatter": "summed and scattered",
            "all-to-all": "exchanged", "collective-permute": "passed on"}.get(kind, "moved")  # fmt: skip
    if set(axis.split("+")) <= {"data", "fsdp"} and kind in ("reduce-scatter", "all-reduce"):
        return f"gradients {verb}"
    return f"activations {verb}" + (" (backward)" if backward else "")


def _same(shape: tuple[int, ...], sizes: set[tuple[int, ...]]) -> bool:
    """Whether an array of one of these sizes could be a parameter, whole or in part: axis by axis it divides it."""
    whole = sorted(n for n in shape if n > 1)
    return any(
        len(whole) == len(size) and sum(a == b for a, b in zip(whole, sorted(size), strict=True)) >= len(whole) - 1
        and all(a % b == 0 for a, b in zip(whole, sorted(size), strict=True))
        for size in sizes if size
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Links:
    """Which link the devices of a group are connected by. places: of each device of the mesh, (slice, host)."""

    platform: str
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, platform: str, mesh: Mesh) -> Links:
        """Of the devices of a mesh."""
        found = []
        for device in mesh.devices.flat:
            coords = getattr(device, "coords", None)
            if platform == "gpu" and coords is not None:
                found.append((int(coords[0]), int(coords[0]) * 10**6 + int(coords[1])))
            else:
                found.append((int(getattr(device, "slice_index", 0) or 0), int(device.process_index)))
        return cls(platform, tuple(found))

    def between(self, group: Sequence[int]) -> str:
        """The slowest link within a group: ICI or the network between slices, NVLink or the network between hosts."""
        slices = {self.places[i][0] for i in group}
        hosts = {self.places[i][1] for i in group}
        if self.platform == "tpu":
            return "ICI" if len(slices) == 1 else "network between slices"
        if self.platform == "gpu":
            return "NVLink" if len(hosts) == 1 else "network between hosts"
        return "memory"

    def per_host(self, group: Sequence[int]) -> int:
        """Members of a group on one host (of a TPU: in one slice)."""
        return max(1, len(group) // len({self.places[i][0 if self.platform == "tpu" else 1] for i in group}))
