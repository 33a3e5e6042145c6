"""Losses per token, through a head that never builds [B, T, V].

`over_tokens` runs any function of the logits over chunks of tokens and computes each chunk's logits again in the
backward pass, so memory holds one chunk of logits at a time whatever the vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.types import Batch, LossFn, Mean, Metrics

LOGITS_BYTES = 32 * 2**20
"""How much float32 logits one chunk may take, per row shard; all of it at once where it fits."""


def over_tokens(
    model: Any, batch: Batch, fn: Callable[[jax.Array, jax.Array], Any], key: jax.Array | None = None
) -> tuple[Any, Metrics]:
    """`fn(logits_NV, targets_N) -> values [N]` (or a tree of them) at every token: [B, T] values, the model's metrics.

    Where a chunk's weights are all 0 nothing is computed and the values are 0.
    """
    hidden_BTD, aux = model.hidden(batch, key)
    return over_hidden(model.head, hidden_BTD, batch, fn), aux


def over_hidden(
    head: Callable[[jax.Array], jax.Array],
    hidden_BTD: jax.Array,
    batch: Batch,
    fn: Callable[[jax.Array, jax.Array], Any],
) -> Any:
    """`over_tokens` for a hidden state that is there already."""
    B, T, D = hidden_BTD.shape

    def compute(hidden_BCD: jax.Array, targets_BC: jax.Array) -> Any:
        values = fn(head(hidden_BCD.reshape(-1, D)), targets_BC.reshape(-1))
        return jax.tree.map(lambda v: v.reshape(targets_BC.shape), values)

    shapes = jax.eval_shape(lambda h: head(h), jax.ShapeDtypeStruct((B, D), hidden_BTD.dtype))
    length = max(1, LOGITS_BYTES // (4 * shapes.size))  # the chunk's positions, over all rows
    if length >= T:
        return compute(hidden_BTD, batch.targets_BT)

    # Chunks cut the sequence, not the rows, so that rows stay sharded as they are.
    count = -(-T // length)
    length = -(-T // count)

    def chunks(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, 0), (0, count * length - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.swapaxes(padded.reshape(B, count, length, *x.shape[2:]), 0, 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(_: None, chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[None, Any]:
        hidden_BCD, targets_BC, weights_BC = chunk
        nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(compute, hidden_BCD, targets_BC))
        return None, jax.lax.cond(jnp.any(weights_BC != 0), compute, lambda *_: nothing, hidden_BCD, targets_BC)

    xs = chunks(hidden_BTD), chunks(batch.targets_BT), chunks(batch.weights_BT)
    _, values = jax.lax.scan(body, None, xs)
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1).reshape(B, count * length)[:, :T], values)


def token_logprobs(logits_NV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """log p(target) in nats, [N]."""
    logits_NV = logits_NV.astype(jnp.float32)
    chosen_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    return chosen_N - jax.nn.logsumexp(logits_NV, axis=-1)


def token_loss(fn: Callable[..., jax.Array]) -> LossFn:
    """Makes `fn(logits_NV, targets_N, **hyperparameters) -> loss_N` a LossFn, chunked: the mean over tokens."""

    @functools.wraps(fn)
    def loss(model: Any, batch: Batch, key: jax.Array | None = None, **hyperparameters: Any) -> Metrics:
        values_BT, _ = over_tokens(model, batch, functools.partial(fn, **hyperparameters), key)
        return {"loss": Mean(jnp.sum(values_BT * batch.weights_BT), jnp.sum(batch.weights_BT))}

    parameters = list(inspect.signature(fn).parameters.values())[2:]
    leading = [
        p for p in inspect.signature(loss, follow_wrapped=False).parameters.values() if p.name != "hyperparameters"
    ]
    loss.__signature__ = inspect.Signature([*leading, *parameters])  # type: ignore[attr-defined]
    return loss


@token_loss
def cross_entropy(
    logits_NV: jax.Array, targets_N: jax.Array, *, label_smoothing: float = 0.0, z_loss: float = 0.0
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
