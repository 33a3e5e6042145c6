"""From a round's completions and rewards to the batches of its steps, of the kind that the loss reads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from jaxllm.data.packing import bucket
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.data.rollouts import Completion, RolloutRows, Sampled
from jaxllm.losses.advantages import Scale, advantages, combine, leave_one_out
from jaxllm.losses.rollouts import Estimator
from jaxllm.recipes.round_record import Round
from jaxllm.types import Answers, Rollouts

Baseline = Literal["group", "leave_one_out"]


@dataclasses.dataclass(frozen=True)
class Batches:
    """How rounds become batches of `rows` rows, a row for each prompt with its completions.

    kind: that of the loss: completions for `Rollouts`, pairs and answers for `Answers`, tokens for a `Batch` of all
    completions. baseline: what a reward is compared with. reward_kl: times the divergence of old policy and reference,
    as the tokens of a completion estimate it, is taken off its reward. pairs: best against worst, or all whose rewards
    differ.
    """

    kind: str
    rows: int
    longest_prompt: int
    max_tokens: int
    group: int
    weights: Sequence[float]
    baseline: Baseline = "group"
    scale: Scale = "group"
    reward_kl: float = 0.0
    kl_estimator: Estimator = "k1"
    mask_truncated: bool = False
    pairs: str = "best"
    layout: Layout = dataclasses.field(default_factory=Layout)

    def of(self, found: Round, prompts: Sequence[list[int]], groups: Iterable[int], rows: Sequence[int]) -> Any:
        """The batch of a step, or these rows of it: the groups of a round that it trains on, in order."""
        if self.kind in ("pairs", "pairs alone", "answers"):
            return self._answers(found, prompts, [*groups], rows)
        batch = self._rollouts(found, prompts, [*groups], rows)
        return batch.batch if self.kind == "tokens" else batch

    def advantages(self, found: Round) -> np.ndarray:
        """The advantage of each completion of a round, [groups, G]."""
        total = combine(found.rewards, self.weights)
        if self.reward_kl:
            total = total - self.reward_kl * _kl(found, self.kl_estimator)
        return leave_one_out(total) if self.baseline == "leave_one_out" else advantages(total, scale_rewards=self.scale)

    def all_tokens(
        self, found: Round, prompts: Sequence[list[int]], groups: Iterable[int]
    ) -> tuple[AnswerRows, Rollouts]:
        """The rows of a step with all tokens learned from, and where they lie."""
        bare = dataclasses.replace(found, old_logps=None, ref_logps=None)
        rows = self._sampled(bare, prompts, [*groups], np.zeros(found.lengths.shape), mask=False)
        return rows.rows, self._collate(rows, range(self.rows))

    def largest(self, groups: int, count: int, reference: bool, old: bool) -> Any:
        """A batch of the largest shape that there can be, of completions without meaning."""
        size = groups * self.group
        lengths = np.full((groups, self.group), self.max_tokens)
        some = np.zeros(size * self.max_tokens, np.float32)
        rewards = np.broadcast_to(np.arange(self.group, dtype=float), (1, groups, self.group))
        found = Round(
            0, np.zeros(groups, np.int64), lengths, some.astype(np.int32), some, np.ones(lengths.shape, bool),
            np.repeat(rewards, len(self.weights), axis=0), some if old else None, some if reference else None,
        )  # fmt: skip
        return dataclasses.replace(self, rows=count).of(found, [[0] * self.longest_prompt], range(groups), range(count))

    def _rollouts(
        self, found: Round, prompts: Sequence[list[int]], groups: Sequence[int], rows: Sequence[int]
    ) -> Rollouts:
        # Distillation reads no advantages, and may have one completion a prompt.
        advantages = np.zeros(found.lengths.shape) if self.kind == "tokens" else self.advantages(found)
        return self._collate(self._sampled(found, prompts, groups, advantages, self.mask_truncated), rows)

    def _sampled(
        self, found: Round, prompts: Sequence[list[int]], groups: Sequence[int], advantages: np.ndarray, mask: bool
    ) -> RolloutRows:
        """The completions of these groups, with what is known of their tokens."""
        trained = found.trained(mask).reshape(found.lengths.shape)
        known = {"sampler_logps": found.logps, "old_logps": found.old_logps, "ref_logps": found.ref_logps}
        cut = {name: found.cut(x) for name, x in known.items() if x is not None}
        tokens, sampled = found.cut(found.tokens), []
        for g in groups:
            each = tuple(
                Completion(
                    tokens[g][i], float(advantages[g, i]),
                    None if trained[g, i] else np.zeros(len(tokens[g][i]), bool),
                    **{name: x[g][i] for name, x in cut.items()},
                )
                for i in range(self.group)
            )  # fmt: skip
            sampled.append(Sampled(np.array(prompts[found.prompts[g]], np.int32), each))
        return RolloutRows(sampled, self.layout, self.max_tokens)

    def _collate(self, rows: RolloutRows, local: Sequence[int]) -> Rollouts:
        length = bucket(int(rows.lengths.max()))
        return rows.collate([[r] if r < len(rows.prompts) else [] for r in local], length, len(local), self.group)

    def _answers(
        self, found: Round, prompts: Sequence[list[int]], groups: Sequence[int], rows: Sequence[int]
    ) -> Answers:
        """Pairs of completions of different rewards; a group without any has an empty row."""
        total, tokens = combine(found.rewards, self.weights), found.cut(found.tokens)
        usable = found.trained(self.mask_truncated).reshape(total.shape) & ~np.isnan(total)
        refs = None if found.ref_logps is None else found.cut(found.ref_logps)
        made: list[Group] = []
        logps: list[list[np.ndarray]] = []
        placed: list[list[int]] = []
        for g in groups:
            first = len(made)
            for better, worse in self._pairs(total[g], usable[g]):
                sides = ((better, 1), (worse, -1))
                answers = tuple(Answer(x := tokens[g][i], np.ones(len(x), bool), side) for i, side in sides)
                made.append(Group(np.array(prompts[found.prompts[g]], np.int32), answers))
                logps.append([refs[g][i] for i, _ in sides] if refs is not None else [])
            placed.append([*range(first, len(made))])
        pairs = AnswerRows(made, self.layout, logps if refs is not None else None)
        longest = max((int(pairs.lengths[row].sum()) for row in placed if row), default=1)
        slots = 2 if self.pairs == "best" else self.group * (self.group - 1)
        asked = [placed[r] if r < len(placed) else [] for r in rows]
        return pairs.collate(asked, bucket(longest), len(rows), slots)

    def _pairs(self, total: np.ndarray, usable: np.ndarray) -> list[tuple[int, int]]:
        """(better, worse) of a group."""
        order = [int(i) for i in np.argsort(-total, kind="stable") if usable[i]]
        if self.pairs == "best":
            return [(order[0], order[-1])] if order and total[order[0]] > total[order[-1]] else []
        return [(i, j) for i, j in itertools.combinations(order, 2) if total[i] > total[j]]


def _kl(found: Round, estimator: Estimator) -> np.ndarray:
    """KL(policy that sampled || reference) as the tokens of each completion estimate it, summed, [groups, G] in nats.

    With x = reference - policy: k1 is -x, k2 is x^2 / 2, k3 is exp(x) - 1 - x, as `losses.rollouts.kl` has them.
    """
    assert found.ref_logps is not None
    x = found.ref_logps.astype(np.float64) - (found.logps if found.old_logps is None else found.old_logps)
    each = {"k1": lambda: -x, "k2": lambda: np.square(x) / 2, "k3": lambda: np.expm1(x) - x}[estimator]()
    return np.array([[float(tokens.sum()) for tokens in group] for group in found.cut(each)])
