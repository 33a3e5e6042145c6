"""Devices that should hold the same numbers and do not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from toy_run import go, saved

from jaxllm.distributed import replicas
from jaxllm.distributed.mesh import make_mesh
from jaxllm.types import RunError

MESH = make_mesh("data=2,fsdp=2,tensor=2")


def array(x, spec, odd=None, change=lambda part: part):
    """An array on the mesh; one device may hold something else."""
    x, at = np.asarray(x), NamedSharding(MESH, spec)
    parts = []
    for device, index in at.addressable_devices_indices_map(x.shape).items():
        part = change(x[index].copy()) if device.id == odd else x[index]
        parts.append(jax.device_put(part, device))
    return jax.make_array_from_single_device_arrays(x.shape, at, parts)


def flip(part):
    """The lowest bit of one number."""
    part.view(f"uint{8 * part.itemsize}").flat[0] ^= 1
    return part


X = np.linspace(0.5, 2, 64).reshape(8, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("spec", [P(), P("fsdp"), P("fsdp", "tensor"), P(("data", "fsdp"))])
def test_one_flipped_bit_is_found_on_its_device(dtype, spec):
    x = X.astype(jnp.dtype(dtype))
    others = {"a": array(x, P()), "scalar": array(np.float32(3), P())}
    replicas.check({**others, "w": array(x, spec)}, MESH, 7)
    copies = 8 // np.prod([MESH.shape[a] for a in jax.tree.leaves(tuple(spec))], dtype=int)
    if copies == 2:  # neither of two is known to be the right one: the array is named
        expected = r"^step 7: replicas have diverged: w on device \d \(process 0\) is not what the other 1 have"
    else:
        expected = (
            rf"^step 7: replicas have diverged: w on device 5 \(process 0\) is not what the other {copies - 1} have"
        )
    with pytest.raises(RunError) as error:
        replicas.check({**others, "w": array(x, spec, 5, flip)}, MESH, 7)
    assert re.search(expected, str(error.value)), error.value


def test_what_no_two_devices_hold_is_not_compared():
    whole = P(("data", "fsdp", "tensor"))
    replicas.check({"w": array(X, whole, 3, flip)}, MESH, 1)


def test_a_run_stops_and_saves_nothing_that_diverged(tmp_path, monkeypatch):
    """One device's copy changes after step 4; the checkpoint of step 3 stands."""
    check = replicas.check

    def spoil(arrays, mesh, step):
        if step > 3:
            name = "params/kernel" if "params/kernel" in arrays else next(n for n in arrays if n.endswith("kernel"))
            x = arrays[name]
            parts = [shard.data for shard in x.addressable_shards]
            parts[1] = jax.device_put(np.asarray(parts[1]) + 1, next(iter(parts[1].devices())))
            arrays = {**arrays, name: jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)}
        check(arrays, mesh, step)

    monkeypatch.setattr(replicas, "check", spoil)
    with pytest.raises(RunError, match=r"^step 6: replicas have diverged: \S*kernel on device \d"):
        go(tmp_path, check_replicas=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3"]
    assert saved(tmp_path, 3)["step"] == 3
    monkeypatch.setattr(replicas, "check", check)
    assert go(tmp_path, check_replicas=True).position == 12
