"""The core types, and the legend of array axes used in every file.

Axes, written as a suffix of array names and in einsum strings:

    B  rows of a batch          T  positions in a row (S: keys, where they differ from queries)
    D  width of the model       N  heads (in losses: tokens, flattened)
    K  key and value heads      H  width of one head
    F  width of the MLP         V  vocabulary, or label set
    L  layers of the stack      A  answers, or texts with targets, in a row
    E  experts                  G  queries that share a key head
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax

Params = dict[str, jax.Array]
"""Parameters by dotted name, such as `"blocks.attn.q.kernel"`; the first axis of stacked arrays is the layer."""

_T = TypeVar("_T")


class InputError(ValueError):
    """Bad input from outside: one line that names the thing and the remedy. Scripts print it and exit with status 2."""


class UserCodeError(InputError):
    """A user's own function raised `__cause__`: scripts print this line, then the traceback of the cause."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: a list of all known names, and the most similar one if there is one."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    return f"give one of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")


def check_one_of(flag: str, given: str, known: Iterable[str]) -> None:
    """Raises InputError for a value of a flag that is not known; of what is known, "" is not listed."""
    if given not in (known := list(known)):
        raise InputError(f"{flag} {given}: {nearest(given, filter(None, known))}")


class RunError(RuntimeError):
    """A run cannot continue, but its checkpoints are intact: one line. Scripts print it and exit with status 1."""


@dataclass_transform(frozen_default=True)
def _pytree(cls: type[_T]) -> type[_T]:
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@_pytree
class Batch:
    """Rows of tokens and what to learn from them, each array [B, T]: int32, but weights float32.

    targets[b, t] is what position t must predict (already shifted for causal models). weights is 0 where nothing is
    learned. segments is 0 on padding and numbers the documents packed in a row from 1; positions restart with each.
    branches, for answers that share a prompt, is 0 on the trunk and then one number per branch: a key is visible when
    it is in the same segment, not in the future, and of branch 0 or of the query's own branch. types, for encoders that
    tell the second text of a pair from the first, is the row of the token-type embedding; None is row 0 everywhere.
    """

    tokens_BT: jax.Array
    targets_BT: jax.Array
    weights_BT: jax.Array
    segments_BT: jax.Array
    positions_BT: jax.Array
    branches_BT: jax.Array | None = None
    types_BT: jax.Array | None = None


@_pytree
class Answers:
    """Rows packed with answers, for preference losses.

    answer_BT[b, t] is the answer in its row that targets[b, t] belongs to, -1 elsewhere. Per answer: its pair, its side
    (+1 chosen or desirable, -1 rejected or undesirable, 0 only for a KL estimate), its weight (0 where absent) and its
    margin. Both answers of a pair live in one row. ref_logps_BT holds the reference's log-probabilities per token, in
    nats; None for a loss without a reference.
    """

    batch: Batch
    answer_BT: jax.Array
    pair_BA: jax.Array
    side_BA: jax.Array
    weight_BA: jax.Array
    margin_BA: jax.Array
    ref_logps_BT: jax.Array | None = None


@_pytree
class Labelled:
    """Rows packed with texts that have a vector of targets each, for losses of texts.

    targets_BAV is float32: one number per text (V = 1), or one per label, 0 where the label does not apply and else how
    much it counts (1). batch.targets[b, t] is the text in its row, from 0, that position t answers for; weights is 0
    at all other positions.
    """

    batch: Batch
    targets_BAV: jax.Array


@_pytree
class Rollouts:
    """Rows packed with sampled completions, for policy losses.

    answer_BT[b, t] is the completion in its row that targets[b, t] belongs to, -1 elsewhere; weight_BA is 0 where there
    is no completion, else 1. Nothing is learned from a completion whose tokens all have weight 0 in the batch, but it
    counts as one. advantages_BT is of each target. old_logps_BT, ref_logps_BT and sampler_logps_BT are the targets'
    log-probabilities in nats: under the policy that sampled (None: the policy itself), under a reference, and as the
    generator reported them (None where no loss reads them). max_length, a number and no array, is the longest that a
    completion may be, in tokens.
    """

    batch: Batch
    answer_BT: jax.Array
    weight_BA: jax.Array
    advantages_BT: jax.Array
    old_logps_BT: jax.Array | None = None
    ref_logps_BT: jax.Array | None = None
    sampler_logps_BT: jax.Array | None = None
    max_length: int | None = dataclasses.field(default=None, metadata={"static": True})


@_pytree
class Mean:
    """A weighted mean before its division: `total` sums weight times value, `count` the weights (float32 scalars).

    Microbatches, devices and processes add totals and counts; the division happens once, at the end. A count depends on
    the data alone, never on the parameters.
    """

    total: Any
    count: Any

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Any:
        """total / count, and 0 where nothing was counted."""
        nothing = self.count == 0
        return self.total / (self.count + nothing) * (1 - nothing)


Terms = tuple[tuple[float, Mean], ...]
"""A weighted sum of means with different counts (of pairs, of tokens): (weight, mean) per term."""

Metrics = dict[str, Mean | Terms]


def terms(metric: Mean | Terms) -> Terms:
    """A metric as a weighted sum of means."""
    return ((1.0, metric),) if isinstance(metric, Mean) else metric


def value(metric: Mean | Terms) -> Any:
    """The number a metric stands for: sum of weight x total / count over its terms."""
    return sum(weight * mean.value() for weight, mean in terms(metric))


class Model(Protocol):
    """What a loss may call on a model."""

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """hidden_BTD, and the model's own metrics (a mixture's router balance; empty otherwise). No key, no dropout."""
        ...

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV in float32; V is the number of labels for a tagger, 1 for a reward model."""
        ...


class LossFn(Protocol):
    """A loss: (model, batch, key=None) -> Metrics with at least "loss". No key means no dropout.

    `batch` is a `Batch`, an `Answers`, a `Labelled` or a `Rollouts`. A loss whose examples depend on each other sets
    `couples_batch = True`, and is then refused under microbatching and pmap.
    """

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics: ...


@_pytree
class TrainState:
    """Arrays only: the number of updates made (int32 scalar), the parameters, the optimizer's state.

    The dropout key is `fold_in(key(seed), step)`, folded again per microbatch and device: no key is stored.
    """

    step: Any
    params: Params
    opt_state: Any


Numbers = Mapping[str, float]
"""What an evaluation returns."""
