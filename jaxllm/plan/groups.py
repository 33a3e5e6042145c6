"""The groups of devices that take part in a collective, the mesh axes they lie along, and the links between them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from jaxllm.plan.hlo import Instruction


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


def ring(x: Instruction, mesh: Mesh) -> tuple[int, ...]:
    """The devices that a permute passes something round, from its first pair."""
    following = {pair[0]: pair[-1] for pair in groups_of(x, mesh.size)}
    if not following:
        return ()
    first = next(iter(following))
    found, at = [first], following[first]
    while at != first and at in following and len(found) <= mesh.size:
        found.append(at)
        at = following[at]
    return tuple(found if at in found else [*found, at])


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

    def slices(self) -> list[list[int]]:
        """The places in the mesh of each slice's devices."""
        numbers = [place[0] for place in self.places]
        return [[i for i, n in enumerate(numbers) if n == one] for one in sorted(set(numbers))]

    def in_mesh(self, groups: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Groups by places in the mesh. Over several slices of TPUs a program counts the devices of its own slice."""
        own, *others = self.slices()
        if self.platform != "tpu" or not others or max((i for group in groups for i in group), default=0) >= len(own):
            return groups
        return [tuple(own[i] for i in group) for group in groups]

    def per_host(self, group: Sequence[int]) -> int:
        """Members of a group on one host (of a TPU: in one slice)."""
        return max(1, len(group) // len({self.places[i][0 if self.platform == "tpu" else 1] for i in group}))
