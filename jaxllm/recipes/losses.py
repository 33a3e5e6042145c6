"""The loss that the flags of preference tuning name, checked against the flags that it needs."""

from __future__ import annotations

from jaxllm.losses import Loss, resolve
from jaxllm.recipes.flags import Common, loss_arguments
from jaxllm.types import InputError


def find_preference_loss(config: Common, reference: str) -> Loss:
    """The loss with its arguments, as `--loss` and `--loss-args` name it.

    reference: `--reference`, cached or live. Raises InputError for a loss that is not for preferences, that needs the
    reference in the other way, or that the other flags would cut.
    """
    loss = resolve(config.loss or "", **loss_arguments(config.loss_args))
    if loss.kind in ("tokens", "sentences"):
        raise InputError(f"--loss {config.loss} is a loss of tokens, which have no rivals: use experiments/sft.py")
    if loss.kind == "texts":
        raise InputError(f"--loss {config.loss} is a loss of single texts: use experiments/classify.py")
    if loss.kind == "rewards":
        raise InputError(f"--loss {config.loss} is a loss of rewards: use experiments/reward.py")
    if loss.kind == "completions":
        raise InputError(f"--loss {config.loss} is of completions that the policy samples: use a preference loss")
    if reference not in ("cached", "live"):
        raise InputError(f"--reference {reference}: give cached or live")
    if "kl" in loss.needs and reference == "cached":
        raise InputError(f"--loss {config.loss} reads the reference's whole distributions: add --reference live")
    if loss.couples_batch and (config.microbatches > 1 or config.strategy == "pmap"):
        cut = "--strategy pmap" if config.strategy == "pmap" else f"--microbatches {config.microbatches}"
        raise InputError(f"--loss {config.loss} depends on the whole batch at once, which {cut} cuts: leave it out")
    return loss
