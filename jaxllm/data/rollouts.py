"""Packing prompts with the completions sampled from them into rows: all completions of a prompt are in one row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxllm.data.packing import locate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.types import InputError, Rollouts


@dataclasses.dataclass(frozen=True)
class Completion:
    """A sampled completion: tokens (int32, at least one), and an advantage for all of them or one each.

    trained: which tokens are learned from (bool), all by default; none of them for a completion that was cut off and is
    to be left out. The log-probabilities of the tokens, in nats: under the policy that sampled, under a reference, and
    as the generator reported them.
    """

    tokens: np.ndarray
    advantages: float | np.ndarray
    trained: np.ndarray | None = None
    old_logps: np.ndarray | None = None
    ref_logps: np.ndarray | None = None
    sampler_logps: np.ndarray | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:]:
            if np.ndim(x := getattr(self, field.name)) and len(x) != len(self.tokens):
                raise InputError(f"a completion of {len(self.tokens)} tokens has {len(x)} {field.name}; give one each")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A prompt (int32, at least one token) and the completions sampled from it."""

    prompt: np.ndarray
    completions: tuple[Completion, ...]


SHARED = Layout()
"""A prompt's completions share it."""

_LOGPS = ("old_logps", "ref_logps", "sampler_logps")


@dataclasses.dataclass(frozen=True, eq=False)
class RolloutRows:
    """Prompts with their completions, to pack into rows. max_length: the most tokens that a completion may have."""

    prompts: Sequence[Sampled]
    layout: Layout = SHARED
    max_length: int | None = None

    @functools.cached_property
    def rows(self) -> AnswerRows:
        """The places of prompts and completions, as if all tokens were learned from."""
        answers = [
            tuple(Answer(c.tokens, np.ones(len(c.tokens), bool), 0) for c in p.completions) for p in self.prompts
        ]
        return AnswerRows([Group(p.prompt, a) for p, a in zip(self.prompts, answers, strict=True)], self.layout)

    @property
    def lengths(self) -> np.ndarray:
        """The number of positions of each prompt with its completions, int64."""
        return self.rows.lengths

    def collate(self, rows: Sequence[Sequence[int]], row_length: int, count: int, slots: int) -> Rollouts:
        """Packs rows of prompt numbers into `count` rows (numpy), with room for `slots` completions in each.

        Log-probabilities that no completion has are None. Raises InputError where some have them and some do not.
        """
        answers = self.rows.collate(rows, row_length, count, slots)
        weights_BT = np.array(answers.batch.weights_BT)
        arrays = {"advantages": np.zeros_like(weights_BT)} | {n: np.zeros_like(weights_BT) for n in self._known}
        for number, row, start in locate(rows, self.lengths):
            group = self.rows.groups[number]
            for completion, span in zip(self.prompts[number].completions, self.layout.spans(group), strict=True):
                place = (row, slice(start + span.start, start + span.stop))
                if completion.trained is not None:
                    weights_BT[place] = completion.trained
                for name, x in arrays.items():
                    x[place] = getattr(completion, name)
        return Rollouts(
            dataclasses.replace(answers.batch, weights_BT=weights_BT),  # type: ignore[arg-type]
            answers.answer_BT,
            answers.weight_BA,
            arrays["advantages"],  # type: ignore[arg-type]
            max_length=self.max_length,
            **{f"{name}_BT": arrays.get(name) for name in _LOGPS},  # type: ignore[arg-type]
        )

    @functools.cached_property
    def _known(self) -> list[str]:
        """The log-probabilities that the completions have."""
        completions = [c for p in self.prompts for c in p.completions]
        known = []
        for name in _LOGPS:
            have = sum(getattr(c, name) is not None for c in completions)
            if have not in (0, len(completions)):
                raise InputError(f"{have} of {len(completions)} completions have {name}: give it for all or for none")
            known += [name] * (have > 0)
        return known
