"""Packing prompts with their answers into rows of a batch: all answers to a prompt are in one row.

A shared prompt of n tokens is a trunk of n - 1 tokens, and each answer a branch that begins with a copy of the prompt's
last token, from which the answer's first token is predicted. A branch attends to the trunk and to itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxllm.data.loader import Loader
from jaxllm.data.packing import Plan, locate
from jaxllm.types import Answers, Batch, InputError

Logps = list[np.ndarray]
"""For each answer of a group, the log-probabilities (nats, float32) of its first `reach` tokens, 0 where untrained."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to a prompt: tokens (int32), and which of them are trained on (bool, at least one).

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
    """A prompt (int32, at least one token), its answers, their weight, and the margin of chosen over rejected."""

    prompt: np.ndarray
    answers: tuple[Answer, ...]
    weight: float = 1.0
    margin: float = 0.0


_FIELDS = ("tokens", "targets", "weights", "segments", "positions", "branches", "answers")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the tokens of a group are arranged in a row.

    share: one trunk for all answers; otherwise the prompt is repeated before each. closed: the last token of an answer
    is an input, and only its position has a weight, as a reward model needs; otherwise it is only a target, and every
    prediction of a trained token has a weight. pad: of a closed answer the last token that is not this one counts, as
    in the sequence classifiers of `transformers`; None for the last.
    """

    share: bool = True
    closed: bool = False
    pad: int | None = None

    def size(self, answer: Answer) -> int:
        """The number of positions of an answer's branch."""
        if not self.closed:
            return answer.reach
        kept = np.flatnonzero(answer.tokens != self.pad) if self.pad is not None else np.arange(len(answer.tokens))
        return int(kept[-1]) + 2 if len(kept) else 1

    def length(self, group: Group) -> int:
        """The number of positions of a group."""
        trunks = 1 if self.share else len(group.answers)
        return trunks * (len(group.prompt) - 1) + sum(self.size(answer) for answer in group.answers)

    def spans(self, group: Group) -> Iterator[slice]:
        """The positions of each answer's branch, counted from the beginning of the group."""
        trunk = len(group.prompt) - 1
        start = trunk if self.share else 0
        for answer in group.answers:
            start += 0 if self.share else trunk
            yield slice(start, start + self.size(answer))
            start += self.size(answer)

    def arrange(self, group: Group) -> dict[str, np.ndarray]:
        """Arrays over the positions of a group: those of a Batch, and `answers`, the answer of each target or -1."""
        n, length = len(group.prompt), self.length(group)
        found = {name: np.zeros(length, np.float32 if name == "weights" else np.int32) for name in _FIELDS}
        tokens, targets, weights, segments, positions, branches, answers = found.values()
        answers[:] = -1
        for a, (answer, span) in enumerate(zip(group.answers, self.spans(group), strict=True)):
            segment = 1 if self.share else a + 1
            if a == 0 or not self.share:
                trunk = slice(span.start - n + 1, span.start)
                tokens[trunk], positions[trunk], segments[trunk] = group.prompt[:-1], np.arange(n - 1), segment
            size = span.stop - span.start
            tokens[span] = np.concatenate([group.prompt[-1:], answer.tokens[: size - 1]])
            positions[span] = np.arange(n - 1, n - 1 + size)
            segments[span], branches[span] = segment, a + 1
            if self.closed:
                weights[span.stop - 1], answers[span.stop - 1] = 1, a
            else:
                targets[span], weights[span] = answer.tokens[:size], answer.trained[:size]
                answers[span] = np.where(answer.trained[:size], a, -1)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerRows:
    """Groups to pack into rows. logps: those of a reference model, per group."""

    groups: Sequence[Group]
    layout: Layout = Layout()
    logps: Sequence[Logps] | None = None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of positions of each group, int64."""
        return np.fromiter((self.layout.length(group) for group in self.groups), np.int64, len(self.groups))

    def collate(self, rows: Sequence[Sequence[int]], row_length: int, count: int, slots: int) -> Answers:
        """Packs rows of group numbers into `count` rows (numpy), with room for `slots` answers in each, and padding.

        Without a shared prompt there are no branches.
        """
        shape = (count, row_length)
        batch = {name: np.zeros(shape, np.float32 if name == "weights" else np.int32) for name in _FIELDS}
        batch["answers"] -= 1
        pair, side = np.full((count, slots), -1, np.int32), np.zeros((count, slots), np.int32)
        weight, margin = (np.zeros((count, slots), np.float32) for _ in range(2))
        ref = None if self.logps is None else np.zeros(shape, np.float32)
        for r, row in enumerate(rows):
            start = segment = slot = 0
            for number in row:
                group, arranged = self.groups[number], self.layout.arrange(self.groups[number])
                stop, own = start + self.layout.length(group), slice(slot, slot + len(group.answers))
                arranged["segments"] += segment
                arranged["answers"][arranged["answers"] >= 0] += slot
                for name, values in arranged.items():
                    batch[name][r, start:stop] = values
                pair[r, own], side[r, own] = number, [answer.side for answer in group.answers]
                weight[r, own], margin[r, own] = group.weight, group.margin
                if ref is not None and self.logps is not None:
                    for answer, logps in zip(self.layout.spans(group), self.logps[number], strict=True):
                        ref[r, start + answer.start : start + answer.stop] = logps
                start, slot, segment = stop, own.stop, int(arranged["segments"][-1])
        answers = batch.pop("answers")
        fields = {f"{name}_BT": x for name, x in batch.items() if name != "branches" or self.layout.share}
        return Answers(Batch(**fields), answers, pair, side, weight, margin, ref)  # type: ignore[arg-type]

    def slots(self, plan: Plan) -> int:
        """The most answers in a row of a plan."""
        return max(len(row) for row in plan.layout) * max(len(group.answers) for group in self.groups)

    def take(self, rows: Sequence[Sequence[int]], values_BT: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Splits an array over the positions of collated rows: each group's number, and values [size] per answer."""
        for number, row, start in locate(rows, self.lengths):
            spans = self.layout.spans(self.groups[number])
            yield number, [values_BT[row, start + span.start : start + span.stop] for span in spans]

    def loader(self, plan: Plan) -> Loader:
        """A loader of the batches of a plan over these groups."""
        slots = self.slots(plan)
        return Loader(plan, lambda rows, count: self.collate(rows, plan.row_length, count, slots))


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerBatches:
    """Every group once, in batches of a plan without shuffling."""

    rows: AnswerRows
    plan: Plan

    def __iter__(self) -> Iterator[Answers]:
        return map(self.rows.loader(self.plan).batch, range(self.plan.steps))


def add_mismatched(groups: Sequence[Group], max_length: int) -> list[Group]:
    """Adds an answer of side 0 to each group: an answer to another prompt, cut to fit `max_length` after its own.

    KTO estimates the divergence from the reference with these (Ethayarajh et al. 2024, section 4.1). The choice depends
    on the groups alone, not on the order of training. Raises InputError where all prompts are the same.
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
