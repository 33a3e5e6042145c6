"""jaxllm: language models trained in JAX, every stage of it, as pure functions.

Models and their weights
    load            a Hugging Face folder or id, a run, or a preset -> Model
    Model           parameters (a flat dict of arrays), mesh, tokenizer, configuration
    hidden_states, logits          forward passes over a Batch
    add_lora, merge_lora           adapters on and off
    export                         a folder that `transformers` loads

Data
    text_batches, chat_batches, pair_batches, tag_batches      rows -> packed Batches
    Batch, Answers                 what a loss is given

Losses
    token_loss, preference_loss    make a function of yours a loss; `jaxllm.losses` has more, policy_loss among them
    PairLogps, over_tokens, Mean   what losses are made of
    resolve                        a loss by name, with its arguments
    check_loss                     the report card of a loss

Training
    compile_train_step, init_state, TrainState      a loop of your own, any optax optimizer
    fit                            the loop with checkpoints, logging and evaluations
    save, restore                  checkpoints of a TrainState

Using models
    generate, tag, score, logprobs

Importing this sets no global state and imports no JAX until a name is used (but where a CUDA plugin without a GPU would
speak up). Each function has its shapes and errors in its docstring; `python -m jaxllm` and the scripts in
`experiments/` do the same from the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxllm.accelerators import import_jax

if TYPE_CHECKING:
    from jaxllm.api.batches import chat_batches, pair_batches, tag_batches, text_batches
    from jaxllm.api.model import Model, add_lora, export, hidden_states, load, logits, merge_lora
    from jaxllm.api.text import generate, logprobs, score, tag
    from jaxllm.api.training import compile_train_step, fit, init_state, restore, save
    from jaxllm.losses import PairLogps, over_tokens, preference_loss, resolve, token_loss
    from jaxllm.report_card.checks import check_loss
    from jaxllm.types import Answers, Batch, Mean, TrainState

import_jax()

__version__ = "0.1.0"

_WHERE = {
    "jaxllm.api.model": ("Model", "add_lora", "export", "hidden_states", "load", "logits", "merge_lora"),
    "jaxllm.api.batches": ("chat_batches", "pair_batches", "tag_batches", "text_batches"),
    "jaxllm.api.text": ("generate", "logprobs", "score", "tag"),
    "jaxllm.api.training": ("compile_train_step", "fit", "init_state", "restore", "save"),
    "jaxllm.losses": ("PairLogps", "over_tokens", "preference_loss", "resolve", "token_loss"),
    "jaxllm.report_card.checks": ("check_loss",),
    "jaxllm.types": ("Answers", "Batch", "Mean", "TrainState"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Answers", "Batch", "Mean", "Model", "PairLogps", "TrainState", "add_lora", "chat_batches", "check_loss",
    "compile_train_step", "export", "fit", "generate", "hidden_states", "init_state", "load", "logits", "logprobs",
    "merge_lora", "over_tokens", "pair_batches", "preference_loss", "resolve", "restore", "save", "score", "tag",
    "tag_batches", "text_batches", "token_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports what is asked for at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")
    found = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
