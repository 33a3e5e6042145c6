"""The loss that the flags of a script name, checked against what the script trains on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxllm.losses import Loss, resolve
from jaxllm.recipes.flags import Common
from jaxllm.types import InputError

_COMPARES = "compares answers: use experiments/preference.py, or a loss of tokens"
NOT_OF_TOKENS = {
    "pairs": _COMPARES,
    "pairs alone": _COMPARES,
    "answers": _COMPARES,
    "sentences": "is of tagged sentences: use experiments/ner.py, or a loss of tokens",
    "rewards": "is a loss of rewards: use experiments/reward.py, or a loss of tokens",
    "completions": "is of completions that the policy samples: use a loss of tokens",
    "texts": "is of texts: use experiments/classify.py, or a loss of tokens",
}
"""What is said of losses of other kinds where a loss of tokens is wanted."""

_NO_RIVALS = "is a loss of tokens, which have no rivals: use experiments/sft.py"
NOT_OF_PREFERENCES = {
    "tokens": _NO_RIVALS,
    "sentences": _NO_RIVALS,
    "texts": "is a loss of single texts: use experiments/classify.py",
    "rewards": "is a loss of rewards: use experiments/reward.py",
    "completions": "is of completions that the policy samples: use a preference loss",
}
"""And where a preference loss is."""


def loss_arguments(texts: tuple[str, ...]) -> Mapping[str, str]:
    """Turns ("beta=0.2", ...) into {"beta": "0.2", ...}. Raises InputError for a text without "="."""
    for text in texts:
        if "=" not in text:
            raise InputError(f"--loss-args {text}: give NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def named_loss(config: Any, refused: Mapping[str, str] | None = None) -> Loss:
    """The loss that --loss and --loss-args name. refused: kinds, and why. Raises InputError for one of these."""
    loss = resolve(config.loss or "", **loss_arguments(config.loss_args))
    if why := (refused or {}).get(loss.kind):
        raise InputError(f"--loss {config.loss} {why}")
    return loss


def token_loss(config: Common) -> Loss:
    """The loss of tokens that the flags name. Raises InputError for one of another kind."""
    return named_loss(config, NOT_OF_TOKENS)


def find_preference_loss(config: Common, reference: str) -> Loss:
    """The preference loss that the flags name.

    reference: `--reference`, cached or live. Raises InputError for a loss that is not for preferences, that needs the
    reference in the other way, or that the other flags would cut.
    """
    loss = named_loss(config, NOT_OF_PREFERENCES)
    if reference not in ("cached", "live"):
        raise InputError(f"--reference {reference}: give cached or live")
    if "kl" in loss.needs and reference == "cached":
        raise InputError(f"--loss {config.loss} reads the reference's whole distributions: add --reference live")
    if loss.couples_batch and (config.microbatches > 1 or config.strategy == "pmap"):
        cut = "--strategy pmap" if config.strategy == "pmap" else f"--microbatches {config.microbatches}"
        raise InputError(f"--loss {config.loss} depends on the whole batch at once, which {cut} cuts: leave it out")
    return loss
