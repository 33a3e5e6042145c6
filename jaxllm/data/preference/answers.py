"""Prompts with answers as rows of a batch: all answers to a prompt in one row, the prompt once where it can be shared.

Shared, a prompt of n tokens lies in the row as a trunk of n - 1 and each answer as a branch that begins with a copy of
the prompt's last token, from which the answer's first is predicted. The branches see the trunk and not each other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data.loader import Loader
from jaxllm.data.packing import Plan
from jaxllm.types import Answers, Batch, InputError

Logps = list[np.ndarray]
"""Of each answer of a group, the log-probability of each of its `reach` tokens, in nats, float32; 0 where untrained."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What follows a prompt: tokens (int32), and which of them are trained on (bool, at least one).

    side: +1 chosen or desirable, -1 rejected or undesirable, 0 for a KL estimate alone.
    """

    tokens: np.ndarray
    trained: np.ndarray
    side: int

    @property
    def reach(self) -> int:
        """Tokens up to the last that is trained on."""
        return int(np.flatnonzero(self.trained)[-1]) + 1


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt (int32, at least one token), its answers, what they count, and by how much the chosen one is better."""

    prompt: np.ndarray
    answers: tuple[Answer, ...]
    weight: float = 1.0
    margin: float = 0.0


class Laid(NamedTuple):
    """A group as arrays over its positions: those of a Batch, and the answer each target is of, -1 for none."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """How groups lie in rows.

    share: one trunk for all answers, else the prompt is repeated before each. closed: the last token of an answer is
    read, and is the one marked, as a reward model wants; a language model needs only predict it, and each prediction
    of a trained token is marked.
    """

    share: bool = True
    closed: bool = False

    def size(self, answer: Answer) -> int:
        """Positions of an answer's branch."""
        return len(answer.tokens) + 1 if self.closed else answer.reach

    def length(self, group: Group) -> int:
        """Positions of a group."""
        trunks = 1 if self.share else len(group.answers)
        return trunks * (len(group.prompt) - 1) + sum(self.size(answer) for answer in group.answers)

    def spans(self, group: Group) -> Iterator[slice]:
        """The branch of each answer, in the group's own positions."""
        trunk = len(group.prompt) - 1
        start = trunk if self.share else 0
        for answer in group.answers:
            start += 0 if self.share else trunk
            yield slice(start, start + self.size(answer))
            start += self.size(answer)

    def lay(self, group: Group) -> Laid:
        """A group as arrays over its own positions."""
        n, length = len(group.prompt), self.length(group)
        tokens, targets, segments, positions, branches, answers = (np.zeros(length, np.int32) for _ in range(6))
        weights = np.zeros(length, np.float32)
        answers[:] = -1
        for a, (answer, span) in enumerate(zip(group.answers, self.spans(group), strict=True)):
            trunk = slice(span.start - n + 1, span.start)
            if a == 0 or not self.share:
                tokens[trunk], positions[trunk] = group.prompt[:-1], np.arange(n - 1)
                segments[trunk] = a + 1
            size = span.stop - span.start
            tokens[span] = np.concatenate([group.prompt[-1:], answer.tokens[: size - 1]])
            positions[span] = np.arange(n - 1, n - 1 + size)
            segments[span], branches[span] = 1 if self.share else a + 1, a + 1
            if self.closed:
                weights[span.stop - 1], answers[span.stop - 1] = 1, a
            else:
                targets[span], weights[span] = answer.tokens[:size], answer.trained[:size]
                answers[span] = np.where(answer.trained[:size], a, -1)
        return Laid(tokens, targets, weights, segments, positions, branches, answers)


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerRows:
    """Groups to be packed into rows. logps: a reference's, per group."""

    groups: Sequence[Group]
    layout: Layout = Layout()
    logps: Sequence[Logps] | None = None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Positions of each group, int64."""
        return np.fromiter((self.layout.length(group) for group in self.groups), np.int64, len(self.groups))

    def collate(self, rows: Sequence[Sequence[int]], row_length: int, count: int, slots: int) -> Answers:
        """`count` rows of these groups (numpy), the rest padding, with room for `slots` answers in each.

        Without a shared prompt there are no branches.
        """
        shape = (count, row_length)
        batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "segments", "positions", "branches")}
        weights, answer_of = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
        pair, side = np.full((count, slots), -1, np.int32), np.zeros((count, slots), np.int32)
        weight, margin = (np.zeros((count, slots), np.float32) for _ in range(2))
        ref = None if self.logps is None else np.zeros(shape, np.float32)
        for r, row in enumerate(rows):
            start = segment = slot = 0
            for number in row:
                group, laid = self.groups[number], self.layout.lay(self.groups[number])
                span, own = slice(start, start + len(laid.tokens)), slice(slot, slot + len(group.answers))
                for name, array in batch.items():
                    array[r, span] = getattr(laid, name)
                batch["segments"][r, span] += segment
                weights[r, span] = laid.weights
                answer_of[r, span] = np.where(laid.answers < 0, -1, laid.answers + slot)
                pair[r, own], side[r, own] = number, [answer.side for answer in group.answers]
                weight[r, own], margin[r, own] = group.weight, group.margin
                if ref is not None and self.logps is not None:
                    for answer, logps in zip(self.layout.spans(group), self.logps[number], strict=True):
                        ref[r, start + answer.start : start + answer.stop] = logps
                start, slot, segment = span.stop, own.stop, int(batch["segments"][r, span.stop - 1])
        fields = {f"{name}_BT": x for name, x in batch.items() if name != "branches" or self.layout.share}
        return Answers(Batch(weights_BT=weights, **fields), answer_of, pair, side, weight, margin, ref)  # type: ignore[arg-type]

    def slots(self, plan: Plan) -> int:
        """The most answers in a row of a plan."""
        return max(len(row) for row in plan.layout) * max(len(group.answers) for group in self.groups)

    def take(self, rows: Sequence[Sequence[int]], values_BT: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
        """What an array over the positions of collated rows holds for each group: its number, [size] per answer."""
        for r, row in enumerate(rows):
            start = 0
            for number in row:
                group = self.groups[number]
                yield number, [values_BT[r, start + s.start : start + s.stop] for s in self.layout.spans(group)]
                start += self.layout.length(group)

    def loader(self, plan: Plan) -> Loader:
        """Serves a plan over these groups."""
        slots = self.slots(plan)
        return Loader(plan, lambda rows, count: self.collate(rows, plan.row_length, count, slots))


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerBatches:
    """Every group once, in batches of a plan without shuffling."""

    rows: AnswerRows
    plan: Plan

    def __iter__(self) -> Iterator[Answers]:
        slots = self.rows.slots(self.plan)
        for step in range(self.plan.steps):
            yield self.rows.collate(self.plan.step(step), self.plan.row_length, self.plan.rows, slots)


def mismatched(groups: Sequence[Group], max_length: int) -> list[Group]:
    """The groups with one more answer each, of side 0: an answer to another prompt, cut to `max_length` with its own.

    KTO's estimate of the divergence from the reference wants these (Ethayarajh et al. 2024, section 4.1). Which answer
    it is depends on the groups alone, not on the order of training. Raises InputError where all prompts are the same.
    """
    order = np.random.default_rng(0).permutation(len(groups))
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))

    def other(number: int) -> Answer:
        group, found = groups[number], following[number]
        while found != number:
            answers = groups[found].answers
            answer = answers[number % len(answers)]
            trained = answer.trained[: max_length - len(group.prompt)]
            if trained.any() and not np.array_equal(groups[found].prompt, group.prompt):
                return Answer(answer.tokens[: len(trained)], trained, 0)
            found = following[found]
        raise InputError("this loss wants answers to other prompts, and all prompts are the same: use another loss")

    return [dataclasses.replace(group, answers=(*group.answers, other(i))) for i, group in enumerate(groups)]
