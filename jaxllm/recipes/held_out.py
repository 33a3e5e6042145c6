"""Evaluation of a policy on held-out prompts: rewards of its greedy completions, and pass@k of sampled ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm.data.sources import Row
from jaxllm.distributed import messages
from jaxllm.evals.generate import Sample, Sampling, sample
from jaxllm.params import GraphDef
from jaxllm.recipes.scoring import Scorer
from jaxllm.run.metrics import Jsonl
from jaxllm.train.forward import Runner
from jaxllm.types import Numbers


@dataclasses.dataclass(eq=False)
class HeldOut:
    """An evaluation by rewards; each one adds its completions to a file, samples.jsonl.

    accuracy: the share of the prompts whose greedy completion is right: the first reward is at least `right`. pass@k:
    the share of which one of k sampled completions is, estimated without bias from `group` of them (Chen et al. 2021,
    Codex, equation 1). position() is the step that the model is of.
    """

    tokens: Sequence[list[int]]
    texts: Sequence[str]
    rows: Sequence[Row]
    decode: Callable[[Sequence[int]], str]
    ends: Sequence[int]
    graph: GraphDef
    scorer: Scorer
    group: int
    max_tokens: int
    temperature: float
    right: float
    seed: int
    samples: Path
    position: Callable[[], int]
    show: Callable[[str, str, bool, float], None] = lambda prompt, completion, ended, reward: None
    at_once: int = 256

    @property
    def numbers(self) -> tuple[str, ...]:
        """What `--best` may name."""
        sampled = ("pass@1", f"pass@{self.group}")[: min(self.group, 2)]
        rewards = (f"rewards/{name}" for name in self.scorer.names)
        return ("accuracy", "reward", *rewards, "unscored", *sampled, "ended", "mean_length")

    def __call__(self, model: Runner) -> Numbers:
        params = {name: model.params[name] for name in self.graph.abstract}
        greedy = self._complete(params, 1, 0.0)
        said, scores = self._score(greedy, 1)
        total = self.scorer.total(scores)[:, 0]
        numbers = {
            "accuracy": float(np.mean(np.nan_to_num(scores[0, :, 0], nan=-np.inf) >= self.right)),
            "reward": _mean(total),
            **{f"rewards/{name}": _mean(x) for name, x in zip(self.scorer.names, scores[:, :, 0], strict=True)},
            "unscored": float(np.mean(np.isnan(total))),
        }
        lines = [self._line("greedy", i, said[i], greedy[i], scores[:, i, 0]) for i in range(len(said))]
        if self.group:
            sampled = self._complete(params, self.group, self.temperature)
            texts, scores = self._score(sampled, self.group)
            passed = np.nan_to_num(scores[0], nan=-np.inf) >= self.right
            for k in {1: None, self.group: None}:
                numbers[f"pass@{k}"] = float(np.mean([pass_at(k, self.group, int(c)) for c in passed.sum(axis=1)]))
            for i, one in enumerate(sampled):
                place = divmod(i, self.group)
                lines.append(self._line("sampled", place[0], texts[i], one, scores[:, *place]))
        numbers["ended"] = float(np.mean([one.ended for one in greedy]))
        numbers["mean_length"] = float(np.mean([len(one.tokens) for one in greedy]))
        self._write(lines)
        for i in range(len(said)):
            self.show(self.texts[i], said[i], greedy[i].ended, total[i])
        return numbers

    def _complete(self, params: Any, group: int, temperature: float) -> list[Sample]:
        asked = [one for one in self.tokens for _ in range(group)]
        return sample(
            self.graph, params, asked, Sampling(temperature), key=jax.random.key(self.seed),
            max_tokens=self.max_tokens, ends=self.ends, at_once=self.at_once,
        )  # fmt: skip

    def _score(self, found: Sequence[Sample], group: int) -> tuple[list[str], np.ndarray]:
        """The texts, and the rewards [functions, prompts, group]."""
        said = [self.decode(one.tokens.tolist()) for one in found]
        texts = [x for x in self.texts for _ in range(group)]
        scores = self.scorer.score(texts, said, [x for x in self.rows for _ in range(group)])
        return said, scores.reshape(len(scores), -1, group)

    def _line(self, how: str, i: int, said: str, one: Sample, scores: np.ndarray) -> dict[str, Any]:
        rewards = {n: None if np.isnan(x) else float(x) for n, x in zip(self.scorer.names, scores, strict=True)}
        return {"how": how, "prompt": self.texts[i], "completion": said, "rewards": rewards, "ended": one.ended}

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Adds lines to samples.jsonl in place of those of this step and later ones."""
        if messages.index() > 0:
            return
        file = Jsonl(self.samples, self.position() - 1)
        for line in lines:
            file.write(self.position(), line)
        file.close()


def pass_at(k: int, n: int, right: int) -> float:
    """The probability that k of n completions, drawn without replacement, have a right one, of which there are `right`.

    1 - C(n - right, k) / C(n, k) (Chen et al. 2021, equation 1).
    """
    return 1.0 - float(np.prod([(n - right - i) / (n - i) for i in range(k)]))


def _mean(x: np.ndarray) -> float:
    """The mean of what is no NaN, NaN where all is."""
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")
