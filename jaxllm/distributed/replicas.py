"""Checks that devices which should hold the same numbers do, to find a chip that computes wrongly."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllm.types import RunError


def check(arrays: Mapping[str, jax.Array], mesh: Mesh, step: int) -> None:
    """Raises RunError that names an array, and the devices whose copy of a part differs from most other copies.

    All processes call this. Arrays of which no two devices hold the same part are not checked.
    """
    groups = {name: _copies(x, mesh) for name, x in arrays.items()}
    named = {name: arrays[name] for name, found in groups.items() if found}
    if not named:
        return
    specs = tuple((name, x.sharding.spec) for name, x in named.items())  # type: ignore[attr-defined]
    sums = np.asarray(jax.device_get(_sums(mesh, specs)(named)))  # [devices, arrays]
    for column, name in enumerate(named):
        for group in groups[name]:
            here = sums[group, column].tolist()
            (most, _), *others = Counter(here).most_common()
            if others:
                odd = [mesh.devices.flat[d] for d, x in zip(group, here, strict=True) if x != most]
                who = ", ".join(f"{d.id} (process {d.process_index})" for d in odd)
                raise RunError(
                    f"step {step}: replicas have diverged: {name} on device {who} is not what the other "
                    f"{len(group) - len(odd)} have. That device may be faulty; the last checkpoint stands"
                )


def _copies(x: jax.Array, mesh: Mesh) -> list[list[int]]:
    """For each part that several devices hold, the positions of these devices in the mesh."""
    place = {device: i for i, device in enumerate(mesh.devices.flat)}
    groups: dict[str, list[int]] = {}
    for device, index in x.sharding.devices_indices_map(x.shape).items():
        groups.setdefault(str(index), []).append(place[device])
    return [sorted(group) for group in groups.values() if len(group) > 1]


@functools.lru_cache(maxsize=4)
def _sums(mesh: Mesh, specs: tuple[tuple[str, P], ...]) -> Any:
    """Computes a checksum of each device's part of each array, as [devices, arrays], replicated."""

    def local(parts: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.stack([_checksum(parts[name]) for name, _ in specs])[None]

    everywhere = jax.shard_map(local, mesh=mesh, in_specs=(dict(specs),), out_specs=P(mesh.axis_names), check_vma=False)
    return jax.jit(everywhere, out_shardings=jax.NamedSharding(mesh, P()))


def _checksum(x: jax.Array) -> jax.Array:
    """The sum of its bits as uint32, which any flipped bit changes."""
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
