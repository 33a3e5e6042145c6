"""The log-probabilities of pairs of answers that preference losses read.

They come from packed rows and a model (`read_pairs`) or from plain lists (`PairLogps.of`). Here the axis B is of pairs,
and T of tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.losses.tokens import log_sum_squares, over_both, over_tokens, token_entropy, token_kl, token_logprobs
from jaxllm.types import Answers, Batch, InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Per token of one side of each pair, in order. Where `mask_BT` is false the values mean nothing."""

    logps_BT: jax.Array
    """float32, nats. The policy's log-probability of each token."""
    mask_BT: jax.Array
    """bool. Which tokens are the answer's; sum over them with `.sum(values_BT)`, which gives [B]."""
    ref_logps_BT: jax.Array | None = None
    """float32, nats. The reference's log-probability of each token; None without a reference."""
    log_sum_sq_BT: jax.Array | None = None
    """float32, nats. log sum_v p_v^2 of the policy, without gradient; None unless "log_sum_sq" is in needs."""
    kl_BT: jax.Array | None = None
    """float32, nats. sum_v q_v log(q_v / p_v), q the reference and p the policy; None unless "kl" is in needs."""

    def sum(self, values_BT: jax.Array) -> jax.Array:
        """The sum of values over the tokens, [B]."""
        return jnp.sum(jnp.where(self.mask_BT, values_BT, 0), axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairLogps:
    """The log-probabilities of pairs of answers. The sums over tokens are float32 or better, as the logits are."""

    chosen_B: jax.Array
    """float32, nats. The policy's log-probability of the chosen answer, summed over its tokens."""
    rejected_B: jax.Array
    """float32, nats. The policy's log-probability of the rejected answer, summed over its tokens."""
    ref_chosen_B: jax.Array | None
    """float32, nats. The reference's log-probability of the chosen answer; None without a reference."""
    ref_rejected_B: jax.Array | None
    """float32, nats. The reference's log-probability of the rejected answer; None without a reference."""
    chosen_length_B: jax.Array
    """float32, tokens. The length of the chosen answer."""
    rejected_length_B: jax.Array
    """float32, tokens. The length of the rejected answer."""
    weight_B: jax.Array
    """float32. How much the pair counts in the mean; 0 in a slot without a pair."""
    margin_B: jax.Array
    """float32. The margin that the data gives the pair, in the unit of the reward; 0 where it gives none."""
    chosen_tokens: Tokens
    """Tokens. The chosen answer token by token."""
    rejected_tokens: Tokens
    """Tokens. The rejected answer token by token."""

    @property
    def chosen_ratio_B(self) -> jax.Array:
        """float32, nats. chosen_B - ref_chosen_B: the log-ratio of policy and reference."""
        return self.chosen_B - _present(self.ref_chosen_B)

    @property
    def rejected_ratio_B(self) -> jax.Array:
        """float32, nats. rejected_B - ref_rejected_B."""
        return self.rejected_B - _present(self.ref_rejected_B)

    @property
    def delta_B(self) -> jax.Array:
        """float32, nats. chosen_ratio_B - rejected_ratio_B; DPO's logit is beta times this."""
        return self.chosen_ratio_B - self.rejected_ratio_B

    @staticmethod
    def of(
        chosen: Sequence[Any],
        rejected: Sequence[Any],
        ref_chosen: Sequence[Any] | None = None,
        ref_rejected: Sequence[Any] | None = None,
        *,
        log_sum_sq_chosen: Sequence[Any] | None = None,
        log_sum_sq_rejected: Sequence[Any] | None = None,
        weight: Any = None,
        margin: Any = None,
    ) -> PairLogps:
        """From one list of per-token log-probabilities per answer; traceable, and differentiable in the entries.

        weight and margin are one number per pair, 1 and 0 unless given. Raises InputError where lengths differ.
        """
        if len(rejected) != len(chosen):
            raise InputError(f"PairLogps.of: {len(chosen)} chosen and {len(rejected)} rejected answers do not pair up")
        chosen_tokens = ragged("chosen", chosen, ref_chosen, log_sum_sq_chosen)
        rejected_tokens = ragged("rejected", rejected, ref_rejected, log_sum_sq_rejected)
        dtype, pairs = chosen_tokens.logps_BT.dtype, len(chosen)
        weight_B = jnp.ones(pairs, dtype) if weight is None else jnp.asarray(weight, dtype)
        margin_B = jnp.zeros(pairs, dtype) if margin is None else jnp.asarray(margin, dtype)
        return pairs_of(chosen_tokens, rejected_tokens, weight_B, margin_B)


def ragged(name: str, logps: Sequence[Any], ref: Sequence[Any] | None, log_sum_sq: Sequence[Any] | None) -> Tokens:
    """Lists of unequal length as padded arrays. Raises InputError where lists of one answer differ in length."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    lengths = [len(row) for row in logps]

    def pad(what: str, values: Sequence[Any] | None) -> jax.Array | None:
        if values is None:
            return None
        if len(values) != len(lengths):
            raise InputError(f"{what}{name} has {len(values)} answers, {name} has {len(lengths)}")
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(values))
        xp: Any = jnp if traced else np  # numpy compiles nothing
        arrays = [xp.asarray(row, dtype) for row in values]
        for i, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
            if array.shape != (length,):
                raise InputError(f"{what}{name}[{i}] has {array.shape[0]} tokens, {name}[{i}] has {length}")
        return jnp.asarray(xp.stack([xp.pad(array, (0, max(lengths) - array.shape[0])) for array in arrays]))

    logps_BT = pad("", logps)
    assert logps_BT is not None
    mask_BT = np.arange(max(lengths))[None, :] < np.asarray(lengths)[:, None]
    return Tokens(logps_BT, jnp.asarray(mask_BT), pad("ref_", ref), pad("log_sum_sq_", log_sum_sq))


@functools.partial(jax.jit, inline=True)
def pairs_of(chosen: Tokens, rejected: Tokens, weight_B: jax.Array, margin_B: jax.Array) -> PairLogps:
    """`PairLogps` with sums and lengths computed from the tokens."""
    length = lambda tokens: jnp.sum(tokens.mask_BT, axis=1).astype(tokens.logps_BT.dtype)  # noqa: E731
    ref = lambda tokens: None if tokens.ref_logps_BT is None else tokens.sum(tokens.ref_logps_BT)  # noqa: E731
    return PairLogps(
        chosen_B=chosen.sum(chosen.logps_BT),
        rejected_B=rejected.sum(rejected.logps_BT),
        ref_chosen_B=ref(chosen),
        ref_rejected_B=ref(rejected),
        chosen_length_B=length(chosen),
        rejected_length_B=length(rejected),
        weight_B=weight_B,
        margin_B=margin_B,
        chosen_tokens=chosen,
        rejected_tokens=rejected,
    )


def _present(ref_B: jax.Array | None) -> jax.Array:
    if ref_B is None:
        raise InputError("this loss reads a log-ratio, and there is no reference: decorate it with reference=True")
    return ref_B


def per_token(sum_B: jax.Array, length_B: jax.Array) -> jax.Array:
    """sum / length, and 0 for an answer without tokens."""
    return sum_B / jnp.maximum(length_B, 1)


def partners(answers: Answers) -> tuple[jax.Array, jax.Array]:
    """Which answers of each row form pairs: (the rejected answer of each chosen one, whether there is one), [B, A]."""
    present_BA = answers.weight_BA > 0
    same_BAA = answers.pair_BA[:, :, None] == answers.pair_BA[:, None, :]
    match_BAA = same_BAA & ((answers.side_BA == 1) & present_BA)[:, :, None]
    match_BAA &= ((answers.side_BA == -1) & present_BA)[:, None, :]
    return jnp.argmax(match_BAA, axis=2), jnp.any(match_BAA, axis=2)


def token_values(
    model: Any,
    batch: Batch,
    ref_logps_BT: jax.Array | None,
    key: jax.Array | None,
    *,
    reference: bool,
    needs: Collection[str] = (),
) -> dict[str, jax.Array]:
    """The log-probability of every target in rows, "logps_BT", and what else is needed, by name, [B, T] each.

    needs: "log_sum_sq", "kl", "entropy" (with a gradient) and "entropy_value" (without). The reference's are the
    batch's own where it carries them, else those of `model.teacher`. Chunked: [B, T, V] is never built. Raises
    InputError where neither is there.
    """
    on_the_fly = reference and ref_logps_BT is None
    if on_the_fly and getattr(model, "teacher", None) is None:
        raise InputError(
            "this loss compares with a reference, and the batch has no ref_logps_BT: compute them, give the model a "
            "teacher, or use a loss without a reference, such as simpo, or beta=0 of a policy loss"
        )

    def values(logits_NV: jax.Array, targets_N: jax.Array) -> dict[str, jax.Array]:
        found = {"logps_BT": token_logprobs(logits_NV, targets_N)}
        if "log_sum_sq" in needs:
            found["log_sum_sq_BT"] = jax.lax.stop_gradient(log_sum_squares(logits_NV))
        if "entropy" in needs:
            found["entropy_BT"] = token_entropy(logits_NV)
        elif "entropy_value" in needs:
            found["entropy_BT"] = jax.lax.stop_gradient(token_entropy(logits_NV))
        return found

    def both(logits_NV: jax.Array, teacher_NV: jax.Array, targets_N: jax.Array) -> dict[str, jax.Array]:
        found = values(logits_NV, targets_N)
        if on_the_fly:
            found["ref_logps_BT"] = token_logprobs(teacher_NV, targets_N)
        if "kl" in needs:
            found["kl_BT"] = token_kl(teacher_NV, logits_NV)
        return found

    if on_the_fly or "kl" in needs:
        found, _ = over_both(model, batch, both, key)
    else:
        found, _ = over_tokens(model, batch, values, key)
    if reference and ref_logps_BT is not None:
        found["ref_logps_BT"] = ref_logps_BT
    return found


def read_tokens(
    model: Any, answers: Answers, key: jax.Array | None, *, reference: bool, needs: Collection[str] = ()
) -> tuple[Tokens, jax.Array]:
    """The log-probabilities of every target in rows [B, T], and the answer of each, -1 where nothing is learned.

    As `token_values`, with its errors.
    """
    found = token_values(model, answers.batch, answers.ref_logps_BT, key, reference=reference, needs=needs)
    learned_BT = answers.batch.weights_BT != 0
    return Tokens(mask_BT=learned_BT, **found), jnp.where(learned_BT, answers.answer_BT, -1)


def read_pairs(
    model: Any, answers: Answers, key: jax.Array | None, *, reference: bool, needs: Collection[str] = ()
) -> PairLogps:
    """The pairs in packed rows, one slot per answer of a row (weight 0 where the slot is not a pair's chosen answer).

    Each slot sees its row's tokens under a mask, so a sum is local to the row under any packing and sharding.
    """
    tokens, answer_BT = read_tokens(model, answers, key, reference=reference, needs=needs)
    rejected_BA, paired_BA = partners(answers)
    B, A = paired_BA.shape
    T = answer_BT.shape[1]
    slots_BA1 = jnp.broadcast_to(jnp.arange(A)[None, :, None], (B, A, 1))

    def side(index_BA1: jax.Array) -> Tokens:
        mask_BAT = (answer_BT[:, None, :] == index_BA1) & paired_BA[:, :, None]
        rows = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None, :], (B, A, T)).reshape(B * A, T), tokens)
        return dataclasses.replace(rows, mask_BT=mask_BAT.reshape(B * A, T))

    both_BA = jnp.minimum(answers.weight_BA, jnp.take_along_axis(answers.weight_BA, rejected_BA, axis=1))
    weight_B = jnp.where(paired_BA, both_BA, 0).reshape(-1)
    return pairs_of(side(slots_BA1), side(rejected_BA[:, :, None]), weight_B, answers.margin_BA.reshape(-1))
