"""Devices on a grid: within a slice and over slices, with devices that are not there."""

import dataclasses

import numpy as np
import pytest
from jax.experimental import mesh_utils

from jaxllm.axes import AXES
from jaxllm.distributed.mesh import make_mesh
from jaxllm.distributed.topology import grid, parse_mesh, slices_of
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "fake"


@dataclasses.dataclass(frozen=True)
class Plain:
    """A device that belongs to no slice, such as a GPU."""

    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "fake"


def devices(slices, each):
    """In an order that is not that of slices."""
    return [Device(i, i // 2, i % slices) for i in range(slices * each)]


def sizes(text, count, slices):
    shape = parse_mesh(text, count, slices)
    used = [axis for axis in AXES if shape.sizes[axis] > 1]
    return {axis: (shape.across[axis], shape.within[axis]) for axis in used}


@pytest.mark.parametrize(
    ("text", "slices", "expected"),
    [
        ("", 2, {"data": (2, 8)}), ("fsdp=16", 2, {"fsdp": (2, 8)}), ("tensor=2x8", 2, {"tensor": (2, 8)}),
        ("data=2x1,fsdp=-1", 2, {"data": (2, 1), "fsdp": (1, 8)}),
        ("data=4,fsdp=4", 2, {"data": (2, 2), "fsdp": (1, 4)}),
        ("fsdp=4,tensor=4", 4, {"fsdp": (4, 1), "tensor": (1, 4)}),
        ("data=2x2,fsdp=2x2", 4, {"data": (2, 2), "fsdp": (2, 2)}),
        ("data=2x2,fsdp=4", 1, {"data": (2, 2), "fsdp": (1, 4)}),
        ("data=4,fsdp=4", 1, {"data": (1, 4), "fsdp": (1, 4)}),
        ("fsdp=2x-1", 2, {"fsdp": (2, 8)}),
    ],
)  # fmt: skip
def test_what_goes_over_slices(text, slices, expected):
    assert sizes(text, 16, slices) == expected


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("data=4x4", 2, "goes over 4 slices, there are 2"), ("tensor=16", 2, "such as tensor=2x8"),
        ("data=2x4", 2, "wants 8 devices, there are 16"), ("data=0x4", 2, "'data=0x4'"),
        ("data=2,fsdp=2,tensor=4", 4, "data or fsdp must be a multiple of 4"),
    ],
)  # fmt: skip
def test_what_does_not_go(text, slices, message):
    with pytest.raises(InputError) as error:
        parse_mesh(text, 16, slices)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["data=2x2,fsdp=4", "fsdp=2x4,tensor=2", "data=4,fsdp=2,context=2"])
def test_as_jax_lays_out_hybrid_meshes(text):
    found = grid(devices(2, 8), shape := parse_mesh(text, 16, 2))
    within, across = (tuple(x[axis] for axis in AXES) for x in (shape.within, shape.across))
    expected = mesh_utils.create_hybrid_device_mesh(within, across, devices(2, 8))
    assert found.shape == expected.shape
    assert (found == expected).all()


def test_an_axis_that_stays_within_a_slice_meets_no_other():
    mesh = make_mesh("data=2x2,fsdp=2,tensor=2", devices(2, 8))
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert mesh.shape["data"] == 4
    assert (slices == slices[:, :1, :1]).all(), "fsdp and tensor"
    assert [row.flat[0] for row in slices] == [0, 0, 1, 1], "data: slices outermost"


def test_where_devices_do_not_say_hosts_are_slices():
    gpus = [Plain(i, i // 4) for i in (3, 0, 1, 2, 7, 6, 5, 4)]
    assert len(slices_of(gpus)) == 1
    found = grid(gpus, parse_mesh("data=2x1,fsdp=4", 8))
    assert [[d.process_index for d in row] for row in found.reshape(2, 4)] == [[0] * 4, [1] * 4]
    ordered = grid(gpus, parse_mesh("fsdp=8", 8)).reshape(-1)
    assert [d.id for d in ordered] == [3, 0, 1, 2, 7, 6, 5, 4], "JAX's own order where nothing is asked"


def test_slices_of_unequal_size():
    with pytest.raises(InputError, match=r"the slices have \[4, 8\] devices"):
        make_mesh("", [*devices(2, 8)[:8], *devices(1, 16)[8:12]])
