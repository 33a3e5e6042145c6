"""Losses per token, and the chunked head that they and all other losses share: [B, T, V] is never built.

`over_tokens` runs a function of the logits over chunks of tokens and recomputes each chunk's logits in the backward
pass, so memory holds one chunk of logits at a time, however large the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxllm import planning
from jaxllm.axes import cuts
from jaxllm.losses.arguments import Fraction, NonNegative, Positive, parameters
from jaxllm.losses.chunks import device_rows, over_chunks, reorder, sum_over_chunks, to_front
from jaxllm.losses.decorated import Decorated, example_array
from jaxllm.types import Batch, InputError, LossFn, Mean, Metrics

LOGITS_BYTES = 64 * 2**20
"""Most bytes of float32 logits that one chunk may take on a device. A batch that fits is one chunk."""

ON_GPU = 4
"""Times as many on a GPU, which has the memory: a head that is sharded is gathered once for each chunk."""

FEWEST = 512
"""Tokens that a chunk has at least on a TPU or GPU: fewer would take less time than reading the head's kernel does.

Either does 240 to 560 FLOPs in bfloat16 in the time in which it reads a byte.
"""


def over_tokens(
    model: Any,
    batch: Batch,
    fn: Callable[[jax.Array, jax.Array], Any],
    key: jax.Array | None = None,
    through: Callable[..., Any] = over_chunks,
) -> tuple[Any, Metrics]:
    """`fn(logits_NV, targets_N) -> values [N]` (or a tree of them) at every token: [B, T] values, the model's metrics.

    Chunks whose weights are all 0 are skipped, and their values are 0. A model that knows about what share of the
    positions is learned (`model.learned`, of masked language models) gets chunks of that share of a row at most.
    through=sum_over_chunks returns the sum of weights times values instead, which is cheaper to differentiate.
    """
    hidden_BTD, aux = model.hidden(batch, key)
    return over_hidden(model.head, hidden_BTD, batch, fn, through, getattr(model, "learned", 1.0)), aux


def over_both(
    model: Any,
    batch: Batch,
    fn: Callable[[jax.Array, jax.Array, jax.Array], Any],
    key: jax.Array | None = None,
    through: Callable[..., Any] = over_chunks,
) -> tuple[Any, Metrics]:
    """`over_tokens` of `fn(logits_NV, teacher_logits_NV, targets_N)`.

    The teacher is `model.teacher`; it gets no gradient and no dropout. Raises InputError for a model without a teacher.
    """
    teacher = getattr(model, "teacher", None)
    if teacher is None:
        raise InputError("this loss reads a teacher's logits, and the model has no teacher: give it one with `Taught`")
    hidden_BTD, aux = model.hidden(batch, key)
    taught_BTD = jax.lax.stop_gradient(teacher.hidden(batch)[0])

    def heads(hidden: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return model.head(hidden[0]), jax.lax.stop_gradient(teacher.head(hidden[1]))

    def values(logits: tuple[jax.Array, jax.Array], targets_N: jax.Array) -> Any:
        return fn(logits[0], logits[1], targets_N)

    return over_hidden(heads, (hidden_BTD, taught_BTD), batch, values, through), aux


def over_hidden(
    head: Callable[[Any], Any],
    hidden: Any,
    batch: Batch,
    fn: Callable[[Any, jax.Array], Any],
    through: Callable[..., Any] = over_chunks,
    learned: float = 1.0,
) -> Any:
    """`over_tokens` from hidden states: [B, T, D], or a tree of [B, T, ...] that `head` takes.

    learned: about what share of the positions of a row has weight, and the longest chunk.
    """
    B, T = batch.targets_BT.shape
    parts = cuts("context")
    parts = parts if T % parts == 0 else 1

    def compute(hidden: Any, targets_BC: jax.Array) -> Any:
        if parts > 1:  # rows and positions are sharded over different axes, so they cannot become one
            return jax.vmap(fn)(head(hidden), targets_BC)
        values = fn(head(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), hidden)), targets_BC.reshape(-1))
        return jax.tree.map(lambda v: v.reshape(targets_BC.shape), values)

    rows, platform = device_rows(B), planning.platform()
    position = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[2:]), x.dtype), hidden)
    size = sum(-(-x.size // cuts("tensor")) for x in jax.tree.leaves(jax.eval_shape(lambda h: head(h), position)))
    budget = LOGITS_BYTES * (ON_GPU if platform == "gpu" else 1)
    fewest = 1 if platform == "cpu" else -(-FEWEST // rows)
    length = parts * max(fewest, budget // (4 * size))  # positions of a chunk, for all rows of a device
    if learned < 1 and parts == 1:  # a little more than on average, so that most rows' learned positions are one chunk
        length = min(length, math.ceil(T * learned * 1.1) + 1)
    if length >= T or parts > 1:
        return through(compute, hidden, batch.targets_BT, batch.weights_BT, length)
    # What is learned comes first in each row, so that the last chunks have nothing to learn and are skipped.
    order_BT, back_BT = to_front(batch.weights_BT != 0)
    hidden, targets_BT, weights_BT = reorder((hidden, batch.targets_BT, batch.weights_BT), order_BT, back_BT)
    values = through(compute, hidden, targets_BT, weights_BT, length)
    return values if through is sum_over_chunks else reorder(values, back_BT, order_BT)


def token_logprobs(logits_NV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """log p(target) in nats, [N], in float32 or better."""
    logits_NV = logits_NV.astype(jnp.promote_types(logits_NV.dtype, jnp.float32))
    chosen_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    return chosen_N - jax.nn.logsumexp(logits_NV, axis=-1)


def log_sum_squares(logits_NV: jax.Array) -> jax.Array:
    """log of the sum over the vocabulary of p^2: the expected probability of a sampled token, [N]."""
    return jax.nn.logsumexp(2 * logits_NV, axis=-1) - 2 * jax.nn.logsumexp(logits_NV, axis=-1)


def token_kl(p_NV: jax.Array, q_NV: jax.Array) -> jax.Array:
    """KL(p || q) in nats of the distributions with these logits, [N]."""
    log_p_NV, log_q_NV = jax.nn.log_softmax(p_NV), jax.nn.log_softmax(q_NV)
    p_NV = jnp.exp(log_p_NV)
    return jnp.sum(p_NV * jnp.where(p_NV > 0, log_p_NV - log_q_NV, 0), axis=-1)  # 0 log 0 is 0


def token_entropy(logits_NV: jax.Array) -> jax.Array:
    """The entropy in nats of the distributions with these logits, [N], in float32 or better."""
    logp_NV = jax.nn.log_softmax(logits_NV.astype(jnp.promote_types(logits_NV.dtype, jnp.float32)))
    p_NV = jnp.exp(logp_NV)
    return -jnp.sum(p_NV * jnp.where(p_NV > 0, logp_NV, 0), axis=-1)  # 0 log 0 is 0


@dataclasses.dataclass(frozen=True, eq=False)
class TokenLoss(Decorated):
    """A LossFn over `Batch`: the mean over tokens, by weight, of a function of their logits. The head is chunked."""

    over: Callable[..., Any] = over_tokens

    unit: ClassVar[str] = "token"

    def __call__(self, model: Any, batch: Batch, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        total, _ = self.over(model, batch, functools.partial(self.each, **arguments), key, sum_over_chunks)
        return {"loss": Mean(total, jnp.sum(batch.weights_BT))}

    def example(self, **arguments: Any) -> tuple[Any, ...]:
        """Logits, the teacher's too where they are read, and targets, as shapes and dtypes."""
        logits_NV = example_array(8, 6)
        return (logits_NV, *[logits_NV] * (self.over is over_both), example_array(8, dtype=jnp.int32))


def token_loss(fn: Callable[..., jax.Array]) -> LossFn:
    """Makes `fn(logits_NV, targets_N, **hyperparameters) -> loss_N` a LossFn: the mean over tokens, by weight.

    logits_NV: float32 (or better). targets_N: int32. loss_N: one float per token. It is run over chunks of tokens.
    """
    return TokenLoss(fn.__name__, fn, parameters(fn, 2))


def distillation_loss(fn: Callable[..., jax.Array]) -> LossFn:
    """`token_loss` for `fn(logits_NV, teacher_logits_NV, targets_N, **hyperparameters) -> loss_N`."""
    return TokenLoss(fn.__name__, fn, parameters(fn, 3), over=over_both)


@token_loss
def cross_entropy(
    logits_NV: jax.Array, targets_N: jax.Array, *, label_smoothing: Fraction = 0.0, z_loss: NonNegative = 0.0
) -> jax.Array:
    """Cross entropy in nats, [N].

    label_smoothing e: (1-e) on the target and e spread evenly over all classes (Szegedy et al. 2015, section 7).
    z_loss: times the square of the log normaliser (Chowdhery et al. 2022, PaLM, section 5).
    """
    log_z_N = jax.nn.logsumexp(logits_NV, axis=-1)
    target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    loss_N = log_z_N - target_N
    if label_smoothing:
        loss_N += label_smoothing * (target_N - jnp.mean(logits_NV, axis=-1))
    if z_loss:
        loss_N += z_loss * jnp.square(log_z_N)
    return loss_N


@token_loss
def dft(logits_NV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Dynamic fine-tuning, [N]: -p log p, no gradient through the factor p (Wu et al. 2025).

    Cross entropy's gradient is a policy gradient with the reward 1 / p; the factor p cancels it.
    """
    logp_N = token_logprobs(logits_NV, targets_N)
    return -jax.lax.stop_gradient(jnp.exp(logp_N)) * logp_N


@token_loss
def focal(logits_NV: jax.Array, targets_N: jax.Array, *, gamma: NonNegative = 2.0) -> jax.Array:
    """Focal loss, [N]: -(1 - p)^gamma log p, which is cross entropy at gamma 0 (Lin et al. 2017, equation 4)."""
    logp_N = token_logprobs(logits_NV, targets_N)
    missing_N = jnp.maximum(-jnp.expm1(logp_N), jnp.finfo(logp_N.dtype).tiny)  # a power has no gradient at 0
    return -(missing_N**gamma) * logp_N


@distillation_loss
def jsd(
    logits_NV: jax.Array,
    teacher_NV: jax.Array,
    targets_N: jax.Array,
    *,
    beta: Fraction = 0.5,
    temperature: Positive = 1.0,
) -> jax.Array:
    """Generalised Jensen-Shannon divergence from a teacher, [N]: b KL(t || m) + (1-b) KL(s || m), m = b t + (1-b) s.

    s and t are the student's and the teacher's distributions at this temperature. b = 0 is KL(t || s), b = 1 is
    KL(s || t): the limits of the divergence over b and over 1-b (Agarwal et al. 2024, GKD, section 2). The model has a
    `teacher`.
    """
    lowest = jnp.finfo(logits_NV.dtype).min / 2  # of a token with probability 0: log 0 has no gradient
    student_NV, teacher_NV = (
        jnp.maximum(jax.nn.log_softmax(x_NV / temperature), lowest) for x_NV in (logits_NV, teacher_NV)
    )
    if beta in (0, 1):
        return token_kl(teacher_NV, student_NV) if beta == 0 else token_kl(student_NV, teacher_NV)
    mixture_NV = jnp.logaddexp(teacher_NV + math.log(beta), student_NV + math.log1p(-beta))
    return beta * token_kl(teacher_NV, mixture_NV) + (1 - beta) * token_kl(student_NV, mixture_NV)


def unlikelihood(model: Any, batch: Batch, key: jax.Array | None = None, *, alpha: NonNegative = 1.0) -> Metrics:
    """Cross entropy and, against repetition, -alpha times the sum of log(1 - p(c)) over the candidates c of a token.

    The candidates are the tokens of the document before the target, each counted once, without the target (Welleck et
    al. 2020, equations 4 and 5). The mean over tokens, by weight.
    """
    B, T = batch.tokens_BT.shape
    row_BT, position_BT = jnp.indices((B, T))
    first_BT = _first_of_kind(batch)

    def values(head_N: tuple[jax.Array, jax.Array, jax.Array], targets_N: jax.Array) -> jax.Array:
        logits_NV, row_N, position_N = head_N
        seen_NT = batch.tokens_BT[row_N]
        before_NT = jnp.arange(T)[None, :] <= position_N[:, None]
        segment_N = batch.segments_BT[row_N, position_N]
        is_candidate_NT = before_NT & first_BT[row_N] & (batch.segments_BT[row_N] == segment_N[:, None])
        is_candidate_NT &= seen_NT != targets_N[:, None]
        logp_NT = jnp.take_along_axis(jax.nn.log_softmax(logits_NV), seen_NT, axis=1)
        # Kept off p = 1, where the loss is infinite.
        missing_NT = jnp.maximum(-jnp.expm1(logp_NT), jnp.finfo(logp_NT.dtype).eps)
        penalty_N = -jnp.sum(jnp.where(is_candidate_NT, jnp.log(missing_NT), 0), axis=1)
        return -token_logprobs(logits_NV, targets_N) + alpha * penalty_N

    hidden_BTD, _ = model.hidden(batch, key)
    head = lambda hidden: (model.head(hidden[0]), hidden[1], hidden[2])  # noqa: E731
    values_BT = over_hidden(head, (hidden_BTD, row_BT, position_BT), batch, values)
    return {"loss": Mean(jnp.sum(values_BT * batch.weights_BT), jnp.sum(batch.weights_BT))}


unlikelihood.kind = "tokens"  # type: ignore[attr-defined]


def _first_of_kind(batch: Batch) -> jax.Array:
    """Whether a token occurs for the first time in its document, [B, T]."""

    def row(tokens_T: jax.Array, segments_T: jax.Array) -> jax.Array:
        order_T = jnp.lexsort((tokens_T, segments_T))  # stable: equal tokens stay in order
        tokens_T, segments_T = tokens_T[order_T], segments_T[order_T]
        again_T = (tokens_T[1:] == tokens_T[:-1]) & (segments_T[1:] == segments_T[:-1])
        return jnp.ones(tokens_T.shape, bool).at[order_T[1:]].set(~again_T)

    return jax.vmap(row)(batch.tokens_BT, batch.segments_BT)
