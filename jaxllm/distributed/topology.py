"""Parses --mesh and arranges the devices in a grid, with fast links within a slice and slow ones between slices.

TPUs report their slice (`slice_index`). Elsewhere the devices, in the order of their processes, are divided into equal
slices, such as hosts with GPUs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from jaxllm.axes import AXES
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of all axes: across slices, and within each slice."""

    across: Mapping[str, int]
    within: Mapping[str, int]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the whole mesh."""
        return {axis: self.across[axis] * self.within[axis] for axis in AXES}


def parse_mesh(text: str, devices: int, slices: int = 1, *, cpu: bool = False) -> Shape:
    """The shape that text such as "data=2,fsdp=4" or "data=2x1,fsdp=4" (over slices x within one) gives `devices`.

    Axes left out are 1; one size within a slice may be -1, for the rest. Empty text puts every device on data. Where
    slices are not named, data or else fsdp goes over them. cpu: the devices are those of a CPU, of which there may be
    more. Raises InputError, with what would work.
    """
    across, within, given = dict.fromkeys(AXES, 1), dict.fromkeys(AXES, 1), set()
    for part in filter(None, (text or "data=-1").replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        found = re.fullmatch(r"(?:([1-9]\d*)x)?(-1|[1-9]\d*)", size)
        if axis not in AXES or not found:
            raise InputError(
                f"--mesh {text}: {part!r} is not AXIS=SIZE, or AXIS=SLICESxSIZE, with one of the axes {', '.join(AXES)}"
            )
        if axis in given:
            raise InputError(f"--mesh {text}: {axis} is given twice")
        given.add(axis)
        across[axis], within[axis] = int(found[1] or 1), int(found[2])
    if -1 in within.values():
        rest = -math.prod([*within.values(), *across.values()])
        if list(within.values()).count(-1) > 1 or devices % rest:
            raise InputError(f"--mesh {text}: {devices} devices leave nothing whole for -1")
        within = {axis: devices // rest if size == -1 else size for axis, size in within.items()}
    shape = Shape(across, within)
    if (wanted := math.prod(shape.sizes.values())) != devices:
        fake = f"; on CPU, XLA_FLAGS=--xla_force_host_platform_device_count={wanted} makes {wanted} fake devices"
        raise InputError(
            f"--mesh {text} wants {wanted} devices, there are {devices}: the sizes must multiply to {devices}, such as "
            f"{_near(shape.sizes, devices)}; one may be -1, for the rest{fake if cpu else ''}"
        )
    over = math.prod(across.values())
    if over > 1 and slices > 1 and over != slices:
        raise InputError(f"--mesh {text} goes over {over} slices, there are {slices}: give sizes over slices for those")
    return shape if over > 1 or slices == 1 else _over(shape, slices, text)


def _near(sizes: Mapping[str, int], devices: int) -> str:
    """Text for --mesh with sizes like these whose product is `devices`."""
    used = {axis: size for axis, size in sizes.items() if size > 1}
    for axis in used:
        others = math.prod(size for other, size in used.items() if other != axis)
        if devices % others == 0:
            return ",".join(f"{a}={devices // others if a == axis else size}" for a, size in used.items())
    return f"fsdp={devices}"


def _over(shape: Shape, slices: int, text: str) -> Shape:
    """The same sizes, with data, or else fsdp, over the slices."""
    for axis in ("data", "fsdp"):
        if shape.within[axis] % slices == 0:
            within = {**shape.within, axis: shape.within[axis] // slices}
            return Shape({**shape.across, axis: slices}, within)
    raise InputError(
        f"--mesh {text}: the devices are of {slices} slices, so data or fsdp must be a multiple of {slices}; "
        f"or say which axis goes over them, such as tensor={slices}x{max(1, shape.within['tensor'] // slices)}"
    )


def slices_of(devices: Sequence[Any], wanted: int = 1) -> list[list[Any]]:
    """The devices by slice as they report it, else `wanted` equal parts. Raises InputError if they differ in size."""
    indices: list[Any] = [getattr(device, "slice_index", None) for device in devices]
    if None in indices:
        order = sorted(devices, key=lambda device: (device.process_index, device.id)) if wanted > 1 else list(devices)
        size = len(order) // wanted
        return [order[i * size : (i + 1) * size] for i in range(wanted)]
    parts = [[d for d, i in zip(devices, indices, strict=True) if i == one] for one in sorted(set(indices))]
    if len(lengths := {len(part) for part in parts}) > 1:
        raise InputError(f"the slices have {sorted(lengths)} devices: a mesh wants as many in each")
    return parts


def grid(devices: Sequence[Any], shape: Shape) -> np.ndarray:
    """The devices, one axis per mesh axis, each going first over slices and then within one."""
    across, within = (tuple(sizes[axis] for axis in AXES) for sizes in (shape.across, shape.within))
    parts = [_within(part, within) for part in slices_of(devices, math.prod(across))]
    if len(parts) == 1:
        return parts[0]
    whole = np.empty((len(parts), math.prod(within)), object)
    for i, part in enumerate(parts):
        whole[i] = part.reshape(-1)
    n = len(AXES)
    interleaved = [axis for i in range(n) for axis in (i, n + i)]
    return whole.reshape(across + within).transpose(interleaved).reshape(tuple(shape.sizes.values()))


def _within(devices: list[Any], sizes: tuple[int, ...]) -> np.ndarray:
    """One slice as a grid: along its links on a TPU, else in order."""
    if devices[0].platform != "tpu":
        found = np.empty(len(devices), object)
        found[:] = devices
        return found.reshape(sizes)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(sizes), devices=devices).devices
