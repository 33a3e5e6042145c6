"""What was sampled in a round, as arrays, as JSON for a checkpoint, and as numbers to log."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.evals.generate import Sample
from jaxllm.types import Mean, Metrics


@dataclasses.dataclass(frozen=True)
class Round:
    """Groups of G completions, one group a prompt. All tokens lie in one array, completion after completion."""

    number: int
    prompts: np.ndarray
    """int64 [groups]. The number of each group's prompt."""
    lengths: np.ndarray
    """int64 [groups, G]. Tokens of each completion, at least one."""
    tokens: np.ndarray
    """int32 [tokens]."""
    logps: np.ndarray
    """float32 [tokens], nats. As the generator reported them."""
    ended: np.ndarray
    """bool [groups, G]. Whether the completion ended by itself."""
    rewards: np.ndarray
    """float64 [functions, groups, G]. NaN where a reward is missing."""
    old_logps: np.ndarray | None = None
    """float32 [tokens], nats. Under the policy that sampled, as training computes them; None where nothing reads it."""
    ref_logps: np.ndarray | None = None
    """float32 [tokens], nats. Under the reference."""

    def trained(self, mask_truncated: bool) -> np.ndarray:
        """Which completions are learned from, bool [groups * G]: all, or those that ended."""
        return self.ended.reshape(-1) if mask_truncated else np.ones(self.ended.size, bool)

    def cut(self, x: np.ndarray) -> list[list[np.ndarray]]:
        """An array over all tokens, by group and completion."""
        parts = np.split(x, np.cumsum(self.lengths.reshape(-1))[:-1])
        groups, size = self.lengths.shape
        return [parts[g * size : (g + 1) * size] for g in range(groups)]


def of_samples(number: int, prompts: np.ndarray, samples: Sequence[Sequence[Sample]], rewards: np.ndarray) -> Round:
    """A round of samples, by group, and their rewards."""
    every = [one for group in samples for one in group]
    shape = len(samples), len(samples[0])
    return Round(
        number, np.asarray(prompts, np.int64), np.array([len(x.tokens) for x in every]).reshape(shape),
        np.concatenate([x.tokens for x in every]).astype(np.int32),
        np.concatenate([x.logps for x in every]).astype(np.float32),
        np.array([x.ended for x in every]).reshape(shape), rewards,
    )  # fmt: skip


def to_json(one: Round) -> Mapping[str, Any]:
    """The arrays as the text of a compressed .npz, exact to the bit."""
    arrays = {f.name: x for f in dataclasses.fields(one) if isinstance(x := getattr(one, f.name), np.ndarray)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # which says that a name may be allow_pickle
    return {"number": one.number, "arrays": base64.b64encode(file.getvalue()).decode()}


def from_json(saved: Mapping[str, Any]) -> Round:
    """What `to_json` made."""
    with np.load(io.BytesIO(base64.b64decode(saved["arrays"])), allow_pickle=False) as arrays:
        return Round(int(saved["number"]), **dict(arrays))


def without_signal(rewards: np.ndarray) -> np.ndarray:
    """Which groups have rewards [groups, G] that are all alike, or at most one, bool [groups]."""
    highest, lowest = (
        f(np.where(np.isnan(rewards), -s * np.inf, rewards), axis=1) for f, s in ((np.max, 1), (np.min, -1))
    )
    return ~(highest - lowest > 1e-8)


def gaps(gap: np.ndarray, kinds: Sequence[str]) -> Metrics:
    """What is logged of the differences between a sampler's log-probabilities and those of the train step, in nats."""
    found = {"mean": (float(np.abs(gap).sum()), gap.size), "max": (float(np.abs(gap).max(initial=0)), 1)}
    return {f"sampling/sampling_logp_difference/{kind}": mean(*found[kind]) for kind in kinds if gap.size}


def mean(total: float, count: float) -> Mean:
    """A mean to log."""
    return Mean(float(total), float(count))
