"""Losses: the decorators and types to write one, and `resolve` to find one by name. They know no model and no data."""

from jaxllm.losses.objective import PreferenceLoss, Term, preference_loss
from jaxllm.losses.pairs import PairLogps, Tokens
from jaxllm.losses.policy_objective import PolicyLoss, policy_loss
from jaxllm.losses.registry import Loss, names, resolve
from jaxllm.losses.rollouts import PolicyLogps
from jaxllm.losses.texts import TextLoss, text_loss
from jaxllm.losses.tokens import (
    TokenLoss,
    cross_entropy,
    distillation_loss,
    over_both,
    over_tokens,
    token_entropy,
    token_kl,
    token_logprobs,
    token_loss,
)
from jaxllm.losses.unpaired import AnswerLogps, UnpairedLoss, kl_estimate, unpaired_loss
from jaxllm.types import Mean

__all__ = [
    "AnswerLogps", "Loss", "Mean", "PairLogps", "PolicyLogps", "PolicyLoss", "PreferenceLoss", "Term", "TextLoss",
    "TokenLoss", "Tokens", "UnpairedLoss", "cross_entropy", "distillation_loss", "kl_estimate", "names", "over_both",
    "over_tokens", "policy_loss", "preference_loss", "resolve", "text_loss", "token_entropy", "token_kl",
    "token_logprobs", "token_loss", "unpaired_loss",
]  # fmt: skip
