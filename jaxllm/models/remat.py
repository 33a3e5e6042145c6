"""Which results of a block the backward pass keeps, and which it computes again, by name: the values of `--remat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxllm.types import InputError

RESIDUAL, ATTENTION, MLP = "residual", "attention", "mlp"
"""Names that blocks give to their results: the residual stream where a block begins; queries, keys, values, what
attention makes of them, and the softmax's normaliser; what the first matrix products of an MLP give."""

_policies = jax.checkpoint_policies
_attention = _policies.save_only_these_names(ATTENTION)


def _keep_attention(prim: Any, *args: Any, **params: Any) -> Any:
    # cuDNN's kernel cannot name its normaliser.
    return prim.name.startswith("dot_product_attention_fwd") or _attention(prim, *args, **params)


REMAT: dict[str, Any] = {
    "none": None,
    "dots": _policies.dots_saveable,
    "dots_no_batch": _policies.dots_with_no_batch_dims_saveable,
    "attention": _keep_attention,
    "mlp": _policies.save_only_these_names(MLP),
    "full": _policies.nothing_saveable,
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[RESIDUAL],
        offload_src="device", offload_dst="pinned_host",
    ),
}  # fmt: skip
"""What a block keeps for the backward pass, which computes the rest again.

none: everything, nothing is computed again. dots: its input and the results of matrix products, attention's scores
among them. dots_no_batch: the same without products of a batch of matrices, which attention's are. attention: its
input, queries, keys, values and the result of attention. mlp: its input and what leads to the MLP's activation. full:
its input. offload: its input, in the memory of the host.
"""


def name(x: Any, what: str) -> Any:
    """x, whose floats a policy of REMAT can keep by this name."""
    floats = lambda a: jax.numpy.issubdtype(a.dtype, jax.numpy.inexact)  # noqa: E731
    return jax.tree.map(lambda a: checkpoint_name(a, what) if floats(a) else a, x)


def check_remat(remat: str, devices: Sequence[jax.Device]) -> None:
    """Raises InputError where these devices cannot do what the policy needs."""
    if remat == "offload" and "pinned_host" not in {memory.kind for memory in devices[0].addressable_memories()}:
        kind = devices[0].device_kind
        raise InputError(f"--remat offload: {kind} has no pinned host memory that JAX reaches; use --remat full")
