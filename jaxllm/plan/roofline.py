"""The time that a step takes at best: a roofline of compute, memory and links (Williams et al. 2009)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxllm.distributed.chips import Chip
from jaxllm.plan.collectives import Collective
from jaxllm.plan.groups import Links


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step, each part as if it were alone."""

    compute: float
    memory: float
    links: Mapping[str, float]
    """By link; collectives over one link follow one another."""

    @property
    def communication(self) -> float:
        """Over all links."""
        return sum(self.links.values())

    @property
    def best(self) -> float:
        """With everything overlapped."""
        return max(self.compute, self.memory, self.communication)

    @property
    def apart(self) -> float:
        """With no communication overlapped."""
        return max(self.compute, self.memory) + self.communication

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {"compute": self.compute, "memory": self.memory, **self.links}
        return max(parts, key=parts.__getitem__)


def estimate(
    chip: Chip, share: float, flops: Mapping[str, float], traffic: float, found: Sequence[Collective], links: Links,
    dims: Mapping[tuple[int, ...], int],
) -> Times:  # fmt: skip
    """share: of a chip that a device is. flops: of a device, by type of input. dims: that a group spans."""
    by_link: dict[str, float] = {}
    for one in found:
        by_link[one.link] = by_link.get(one.link, 0.0) + seconds(chip, share, one, links, dims)
    compute = sum(n / (chip.peak(dtype) * share) for dtype, n in flops.items())
    return Times(compute, traffic / (chip.bandwidth * share), by_link)


def seconds(chip: Chip, share: float, one: Collective, links: Links, dims: Mapping[tuple[int, ...], int]) -> float:
    """Of a collective, at best.

    On a torus both directions of each dimension that the group spans carry it. Between hosts or slices the devices of
    one share what crosses, while each link inside carries all of it.
    """
    if one.link == "memory":
        return 0.0
    inside = chip.link * share * (2 * dims.get(one.group, 1) if links.platform == "tpu" else 1)
    if one.link in ("ICI", "NVLink"):
        return one.bytes / inside
    per_host = links.per_host(one.group) if one.group else 1
    crossing = one.bytes / per_host / (chip.network * share)
    return max(crossing, one.bytes / inside if per_host > 1 else 0.0)
