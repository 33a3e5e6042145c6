"""Sums of the metrics of several steps, from which logged lines take their means."""

from __future__ import annotations

from collections.abc import Mapping

from jaxllm.types import Mean, Metrics, terms


class Sums:
    """Metrics of several steps, added in float64 on the host. `state` is JSON, and survives a checkpoint exactly."""

    def __init__(self, state: Mapping[str, list[list[float]]] | None = None):
        self.state: dict[str, list[list[float]]] = {name: [list(t) for t in s] for name, s in (state or {}).items()}
        """By metric, [weight, total, count] of each of its terms."""

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one step, already fetched from the device."""
        for name, metric in metrics.items():
            found = [[float(weight), float(mean.total), float(mean.count)] for weight, mean in terms(metric)]
            kept = self.state.setdefault(name, [[weight, 0.0, 0.0] for weight, _, _ in found])
            for sums, (_, total, count) in zip(kept, found, strict=True):
                sums[1] += total
                sums[2] += count

    def values(self) -> dict[str, float]:
        """The mean of each metric."""
        return {name: sum(w * Mean(t, c).value() for w, t, c in sums) for name, sums in self.state.items()}
