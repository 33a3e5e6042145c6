"""Rounds of online training: completions sampled from the model in training, their rewards, and the batches of both.

A round is `steps_per_generation` batches of prompts, each with its group of completions, used `num_iterations` times.
Its prompts follow from the seed and its number, its samples from these and the parameters at its start.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.data.sources import Row
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.generate import Sample, Sampling, sample
from jaxllm.evals.logps import per_token
from jaxllm.losses.advantages import reward_metrics
from jaxllm.losses.tempered import values_at
from jaxllm.params import GraphDef
from jaxllm.recipes.round_batches import Batches
from jaxllm.recipes.round_record import Round, from_json, gaps, mean, of_samples, to_json, without_signal
from jaxllm.recipes.scoring import Scorer
from jaxllm.train.forward import Runner
from jaxllm.types import Metrics

MORE_ROUNDS = 2**20
"""Attempts of dynamic sampling are numbered apart from rounds by this."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a round is sampled and used."""

    prompts: int
    """Prompts of an optimizer step."""
    group: int
    """Completions of a prompt."""
    max_tokens: int
    """The longest completion."""
    temperature: float = 1.0
    steps_per_generation: int = 1
    num_iterations: int = 1
    dynamic: int = 0
    """How many times at most groups without signal are sampled again, from other prompts (DAPO, section 3.2)."""
    at_once: int = 256
    """Completions that are sampled together."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of a round."""
        return self.steps_per_generation * self.num_iterations


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which prompts a step has: each epoch goes through all of them in an order that follows from the seed."""

    count: int
    """Prompts that there are."""
    rows: int
    settings: Settings
    packed: Callable[[int], list[list[int]] | None] = lambda step: None
    """The prompts of a step that was sampled already, which dynamic sampling may have changed."""

    @property
    def steps(self) -> int:
        """Optimizer steps of a pass over the prompts."""
        return max(1, round(self.count * self.settings.num_iterations / self.settings.prompts))

    def step(self, index: int) -> list[list[int]]:
        """The prompt of each row of a step."""
        if (found := self.packed(index)) is not None:
            return found
        at, k = divmod(index, self.settings.steps)
        first = (k % self.settings.steps_per_generation) * self.settings.prompts
        return [[i] for i in self.of_round(at)[first : first + self.settings.prompts]]

    def of_round(self, number: int) -> list[int]:
        """The prompts of a round, in order."""
        size = self.settings.prompts * self.settings.steps_per_generation
        return [self._epoch(k // self.count)[k % self.count] for k in range(number * size, (number + 1) * size)]

    def others(self, number: int, attempt: int, count: int) -> list[int]:
        """Prompts drawn in place of others in a round."""
        drawn = np.random.default_rng((self.settings.seed, 2, number, attempt))
        return drawn.choice(self.count, count, replace=count > self.count).tolist()

    @functools.lru_cache(maxsize=2)  # noqa: B019  (a schedule lives as long as its run)
    def _epoch(self, epoch: int) -> list[int]:
        return np.random.default_rng((self.settings.seed, 1, epoch)).permutation(self.count).tolist()


@dataclasses.dataclass(eq=False)
class Rounds:
    """Rounds of a run, as `fit` takes them (train/on_policy.py).

    tokens, texts, rows: of each prompt. decode: tokens to text. policy_graph: the model without a teacher beside it.
    reference: computes log-probabilities under a frozen model, where the loss or the reward reads them.
    """

    tokens: Sequence[list[int]]
    texts: Sequence[str]
    rows: Sequence[Row]
    decode: Callable[[Sequence[int]], str]
    ends: Sequence[int]
    policy_graph: GraphDef
    scorer: Scorer
    batches: Batches
    settings: Settings
    reference: Callable[[Runner], Runner] | None = None
    old: bool = False
    """Whether the loss reads the log-probabilities under the policy that sampled, where that is not the policy."""
    say: Callable[[str], None] = print
    logps_of: Callable[[Any, Any], jax.Array] = per_token
    """The log-probabilities of a batch's targets, as the train step computes them."""
    compiled: dict[Any, Any] = dataclasses.field(default_factory=dict)
    current: Round | None = None
    position: int = 0
    """The step that was yielded last, counted from 1; where the run began, before."""

    @functools.cached_property
    def plan(self) -> Schedule:
        """The prompts of each step."""
        return Schedule(len(self.tokens), self.batches.rows, self.settings, self._sampled)

    def _sampled(self, step: int) -> list[list[int]] | None:
        k = step % self.settings.steps
        if self.current is None or self.begins(step):
            return None
        return [[int(self.current.prompts[g])] for g in self._groups(k)]

    def _groups(self, k: int) -> range:
        """The groups of a round that its k-th step trains on."""
        first = (k % self.settings.steps_per_generation) * self.settings.prompts
        return range(first, first + self.settings.prompts)

    def build(self, rows: list[list[int]], count: int) -> Any:
        """A batch of the largest shape: completions as long as they may be, for the longest prompt."""
        return self.batches.largest(len(rows), count, self.reference is not None, self.old)

    def batch(self, step: int) -> Any:
        """`build` of a whole step."""
        return self.build(self.plan.step(step), self.batches.rows)

    def fingerprint(self) -> str:
        """A hash of all prompts and of the size of a round."""
        digest = hashlib.sha256(f"{self.settings.prompts} {self.settings.group} {self.settings.steps}".encode())
        for one in self.tokens:
            digest.update(np.array([len(one), *one], np.int32).tobytes())
        return digest.hexdigest()[:16]

    def begins(self, position: int) -> bool:
        """Whether the step after `position` is of a round that is not sampled yet."""
        return self.current is None or self.current.number != position // self.settings.steps

    def state(self, position: int) -> Mapping[str, Any] | None:
        """The round as JSON, where `position` lies within it."""
        return None if self.current is None or self.begins(position) else to_json(self.current)

    def rollouts(
        self, start: int, stop: int, rows: Sequence[int], policy: Callable[[], Runner], saved: Mapping[str, Any] | None
    ) -> Iterator[tuple[Any, Metrics]]:
        self.position = start
        self.current = from_json(saved) if saved else None

        def iterate() -> Iterator[tuple[Any, Metrics]]:
            for step in range(start, stop):
                at, k = divmod(step, self.settings.steps)
                known: Metrics = {}
                if self.begins(step):
                    self.current, known = self.sample(at, policy())
                assert self.current is not None
                batch = self.batches.of(self.current, self.tokens, self._groups(k), rows)
                self.position = step + 1
                yield batch, known

        return iterate()

    def sample(self, number: int, policy: Runner) -> tuple[Round, Metrics]:
        """Samples a round from a model, and scores it; with what is logged of it."""
        began = time.monotonic()
        model = self._alone(policy)
        prompts = np.array(self.plan.of_round(number))
        samples, seconds = self._complete(model, prompts, number)
        rewards, scoring = self._score(prompts, samples)
        drawn, again = len(prompts), 0
        for attempt in range(1, self.settings.dynamic + 1):
            if not (weak := np.flatnonzero(without_signal(self.scorer.total(rewards)))).size:
                break
            fresh = np.array(self.plan.others(number, attempt, len(weak)))
            more, took = self._complete(model, fresh, number + MORE_ROUNDS * attempt)
            scores, scored = self._score(fresh, more)
            seconds, scoring, drawn, again = seconds + took, scoring + scored, drawn + len(weak), again + len(weak)
            better = ~without_signal(self.scorer.total(scores))
            for place, g in zip(weak[better], np.flatnonzero(better), strict=True):  # the weak stay where all are weak
                prompts[place], samples[place], rewards[:, place] = fresh[g], more[g], scores[:, g]
        found = of_samples(number, prompts, samples, rewards)
        known = self._numbers(found, seconds, scoring)
        if self.settings.dynamic:
            known["dynamic/resampled"] = mean(again, drawn)
        if self.old and self.settings.steps > 1:
            found = dataclasses.replace(found, old_logps=self._logps(model, found, self.logps_of))
            trained = np.repeat(found.trained(self.batches.mask_truncated), found.lengths.reshape(-1))
            known |= gaps((found.old_logps - found.logps)[trained], ("max",))
        elif not self.old:  # a loss that reads no log-probabilities of a sampler, and so does not log this
            few = self._logps(model, found, self._sampled_logps_of, row_multiple(model.mesh))
            known |= gaps(few - found.logps[: len(few)], ("mean", "max"))
        if self.reference is not None:
            found = dataclasses.replace(found, ref_logps=self._logps(self.reference(policy), found, self.logps_of))
        known["time/round_s"] = mean(time.monotonic() - began, 1)
        return found, known

    def _alone(self, policy: Runner) -> Runner:
        """The model without a teacher beside it."""
        if policy.graphdef == self.policy_graph:
            return policy
        params = {name: policy.params[name] for name in self.policy_graph.abstract}
        return dataclasses.replace(policy, graphdef=self.policy_graph, params=params, compiled=self.compiled)

    def _complete(self, model: Runner, prompts: np.ndarray, number: int) -> tuple[list[list[Sample]], float]:
        """A group of completions for each prompt, and the seconds that it took."""
        began, group = time.monotonic(), self.settings.group
        asked = [self.tokens[p] for p in prompts for _ in range(group)]
        found = sample(
            model.graphdef, model.params, asked, Sampling(self.settings.temperature),
            key=jax.random.fold_in(jax.random.key(self.settings.seed), number),
            max_tokens=self.settings.max_tokens, ends=self.ends, at_once=self.settings.at_once,
        )  # fmt: skip
        groups = [found[i : i + group] for i in range(0, len(found), group)]
        return groups, time.monotonic() - began

    def _score(self, prompts: np.ndarray, samples: list[list[Sample]]) -> tuple[np.ndarray, float]:
        """[functions, groups, G] rewards, and the seconds that it took."""
        began = time.monotonic()
        before = dict(self.scorer.failures)
        places = [p for p, group in zip(prompts, samples, strict=True) for _ in group]
        said = [self.decode(one.tokens.tolist()) for group in samples for one in group]
        scores = self.scorer.score([self.texts[p] for p in places], said, [self.rows[p] for p in places])
        for (name, kind), count in self.scorer.failures.items():
            if (name, kind) not in before:
                self.say(f"reward {name} failed ({kind}) on {count} completions, which count as without it: "
                         f"{self.scorer.first[name, kind]}")  # fmt: skip
        return scores.reshape(len(scores), len(prompts), -1), time.monotonic() - began

    def _numbers(self, found: Round, sampling_s: float, scoring_s: float) -> Metrics:
        """What is logged of a round beside what its steps log."""
        known: Metrics = {}
        if self.settings.group > 1:
            numbers = reward_metrics(found.rewards, self.scorer.weights, names=self.scorer.names)
            known = {name: mean(x, 1) for name, x in numbers.items() if np.isfinite(x)}
        count, lengths, tokens = found.lengths.size, found.lengths, int(found.lengths.sum())
        missing = np.isnan(found.rewards).all(axis=0).sum()
        return known | {
            "completions/mean_length": mean(tokens, count),
            "completions/max_length": mean(int(lengths.max()), 1),
            "completions/ended": mean(int(found.ended.sum()), count),
            "completions/unscored": mean(int(missing), count),
            "sampling/tokens_per_s": mean(tokens, sampling_s),
            "time/sampling_s": mean(sampling_s, 1),
            "time/scoring_s": mean(scoring_s, 1),
        }

    @functools.cached_property
    def _sampled_logps_of(self) -> Callable[[Any, Any], jax.Array]:
        return values_at(per_token, self.settings.temperature)

    def _logps(
        self, model: Runner, found: Round, logps_of: Callable[[Any, Any], jax.Array], few: int = 0
    ) -> np.ndarray:
        """The log-probabilities of all tokens of a round, or of its first few groups, by training's path."""
        made, parts = self.batches, [self._groups(k) for k in range(self.settings.steps_per_generation)]
        if few:
            made, parts = dataclasses.replace(made, rows=few), [range(min(few, len(found.prompts)))]
        batches = [made.all_tokens(found, self.tokens, groups) for groups in parts]
        values, taken = model.map(logps_of, (batch for _, batch in batches)), list[np.ndarray]()
        for (rows, _), values_BT in zip(batches, values, strict=True):
            for _, each in rows.take([[i] for i in range(len(rows.groups))], np.asarray(values_BT, np.float32)):
                taken += each
        return np.concatenate(taken)
