"""Evaluation of preference tuning: accuracy and margins on pairs, and the KL divergence from the reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import Answer, AnswerBatches, AnswerRows, Group
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.generate import Sampling, generate
from jaxllm.evals.logps import answer_logps
from jaxllm.params import GraphDef, bind
from jaxllm.run.sums import Sums
from jaxllm.train.forward import Runner
from jaxllm.types import LossFn, Metrics, Numbers


@dataclasses.dataclass(frozen=True, eq=False)
class LossEval:
    """An evaluation that computes a loss and its other metrics over all answers: sums over batches, divided once.

    For a loss that couples the examples of a batch, the result depends on how these batches are made. graphdef: of the
    model, from which `numbers`, the names of what it gives, follow without computing anything.
    """

    loss: LossFn
    batches: Iterable[Any]
    graphdef: GraphDef

    @functools.cached_property
    def numbers(self) -> tuple[str, ...]:
        """What `--best` may name."""
        metrics = lambda params, answers: self.loss(bind(self.graphdef, params), answers)  # noqa: E731
        return tuple(jax.eval_shape(metrics, self.graphdef.abstract, next(iter(self.batches))))

    def _metrics(self, model: Any, answers: Any) -> Metrics:
        return self.loss(model, answers)

    def __call__(self, model: Runner) -> Numbers:
        sums = Sums()
        for found in model.map(self._metrics, self.batches):
            sums.add(found)
        return sums.values()


def log_ratios(policy: Runner, reference: Runner, batches: AnswerBatches) -> Numbers:
    """How the log-ratios of policy and reference, summed over an answer's tokens, compare within pairs, for any loss.

    log_ratio_margin: the mean of the chosen answer's log-ratio minus the rejected one's, in nats. log_ratio_accuracy:
    the share of pairs where it is above 0.
    """
    both = (answer_logps(model, batches) for model in (policy, reference))
    margins = []
    for group, ours, theirs in zip(batches.rows.groups, *both, strict=True):
        ratio = {a.side: (x - y).sum(dtype=np.float64) for a, x, y in zip(group.answers, ours, theirs, strict=True)}
        margins.append(ratio[1] - ratio[-1])
    return {
        "log_ratio_margin": float(np.mean(margins)),
        "log_ratio_accuracy": float(np.mean(np.array(margins) > 0)),
    }


def likelier(model: Runner, batches: AnswerBatches) -> float:
    """The share of pairs whose chosen answer has the higher log-probability per token, without any reference."""
    hits = []
    for group, found in zip(batches.rows.groups, answer_logps(model, batches), strict=True):
        mean = {a.side: x.sum(dtype=np.float64) / a.trained.sum() for a, x in zip(group.answers, found, strict=True)}
        hits.append(mean[1] > mean[-1])
    return float(np.mean(hits))


def drift(
    policy: Runner,
    reference: Runner,
    prompts: Sequence[np.ndarray],
    *,
    ends: Sequence[int],
    max_tokens: int,
    batch_size: int = 64,
    seed: int = 0,
) -> Numbers:
    """The policy's KL divergence from its reference, from one answer per prompt, sampled at temperature 1.

    kl: the mean of log policy(answer) - log reference(answer), in nats per answer: an unbiased estimate of the
    Kullback-Leibler divergence of the policy from the reference over the first `max_tokens` tokens. kl_error: the
    standard error of that mean. length: tokens of an answer, its end included. ended: the share of answers that end.
    """
    answers: list[list[int]] = []
    for i in range(0, len(prompts), batch_size):
        some = [prompt.tolist() for prompt in prompts[i : i + batch_size]]
        answers += generate(
            policy.graphdef, policy.params, some, Sampling(1.0), max_tokens=max_tokens, stop=tuple(ends), seed=seed + i
        )
    groups = [
        Group(prompt, (Answer(np.array(answer, np.int32), np.ones(len(answer), bool), 1),))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    rows = AnswerRows(groups)
    multiple = row_multiple(policy.mesh)
    batches = AnswerBatches(rows, make_plan(rows.lengths, batch_size=min(batch_size, len(groups)), multiple=multiple))
    both = (answer_logps(model, batches) for model in (policy, reference))
    gaps = np.array([(ours[0] - theirs[0]).sum(dtype=np.float64) for ours, theirs in zip(*both, strict=True)])
    return {
        "kl": float(gaps.mean()),
        "kl_error": float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0,
        "length": float(np.mean([len(answer) for answer in answers])),
        "ended": float(np.mean([answer[-1] in ends for answer in answers])),
    }
