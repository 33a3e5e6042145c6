"""The checks of the report card that policy losses alone must pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxllm.losses import Loss, PolicyLogps, PolicyLoss, resolve
from jaxllm.report_card.finding import SAME, Finding, gap
from jaxllm.report_card.toy import Bench
from jaxllm.types import LossFn

WITHOUT = {
    "beta": 0.0, "entropy_coef": 0.0, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
    "vllm_importance_sampling_mode": "none",
}  # fmt: skip
"""Arguments under which a policy loss is what its function returns."""

FAR = 1000.0
"""How far old log-probabilities are moved, in nats."""


def policy_checks(on: Bench, plain: Any, same: Callable[..., Finding], gradient: Any) -> Iterator[Finding]:
    """What must hold of any loss of sampled completions.

    plain: a batch; same: compares with the loss on it; gradient: loss and gradient of parameters and a batch, compiled.
    """
    yield same("values of tokens of weight 0 are NaN", gradient(on.params, _spoilt(plain)))
    yield _extreme_ratios(on, plain, gradient)
    bare = _bare(on.loss)
    if bare is None:
        for check in ("advantages of 0", "the policy itself has sampled"):
            yield Finding(check, True, "not judged: it reads reference or entropy itself, or has no @policy_loss", "")
        return
    alone, still = dataclasses.replace(on, loss=bare), np.zeros_like(plain.advantages_BT)
    slopes = jax.jit(jax.grad(alone))(on.params, dataclasses.replace(plain, advantages_BT=still))
    largest = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(slopes))
    yield Finding("advantages of 0", largest == 0, f"a gradient of {largest:.1e}", "none, but of KL and entropy")
    fresh = dataclasses.replace(plain, old_logps_BT=None, sampler_logps_BT=None)
    found, wanted = (
        jax.jit(jax.grad(dataclasses.replace(on, loss=loss)))(on.params, fresh) for loss in (bare, _reinforce(bare))
    )
    apart = gap(found, wanted)
    text = f"a difference of at most {SAME:g} from the gradient of -A p"
    yield Finding("the policy itself has sampled", apart <= SAME, f"{apart:.1e}", text)


def _spoilt(plain: Any) -> Any:
    """The batch with NaN for all numbers of targets of weight 0."""
    idle_BT = np.asarray(plain.batch.weights_BT) == 0
    names = ("advantages_BT", "old_logps_BT", "ref_logps_BT", "sampler_logps_BT")
    return dataclasses.replace(plain, **{n: np.where(idle_BT, np.nan, getattr(plain, n)) for n in names})


def _extreme_ratios(on: Bench, plain: Any, gradient: Any) -> Finding:
    """Ratios of exp(1000) and of exp(-1000)."""
    bad = 0
    for by in (-FAR, FAR):
        found = gradient(on.params, dataclasses.replace(plain, old_logps_BT=plain.old_logps_BT + np.float32(by)))
        bad += sum(int(np.sum(~np.isfinite(x))) for x in jax.tree.leaves(found))
    return Finding("ratios of exp(1000) and exp(-1000)", bad == 0, f"{bad} not finite", "loss and gradient finite")


def _bare(loss: LossFn) -> Loss | None:
    """The loss without what `@policy_loss` adds; None where the function itself may add a KL or entropies."""
    whole = resolve(loss) if isinstance(loss, PolicyLoss) else loss
    if not isinstance(whole, Loss):
        return None
    parts = []
    for part in whole.parts:
        function = part.function
        if not isinstance(function, PolicyLoss) or function.reference or "entropy" in function.needs:
            return None
        takes = {*function.shared, *function.own} - ({"beta", "entropy_coef"} & {*function.own})
        parts.append(part._replace(arguments={**part.arguments, **{n: x for n, x in WITHOUT.items() if n in takes}}))
    return dataclasses.replace(whole, parts=tuple(parts))


def _reinforce(bare: Loss) -> Loss:
    """The policy gradient with the means of each part."""

    def score(p: PolicyLogps) -> jax.Array:
        return -p.advantages_BT * p.policy_BT

    parts = [
        part._replace(function=dataclasses.replace(part.function, fn=score, own={}, shared={}), arguments={})  # type: ignore[type-var]
        for part in bare.parts
    ]
    return dataclasses.replace(bare, parts=tuple(parts))
