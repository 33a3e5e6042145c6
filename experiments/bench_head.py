"""What the chunked head costs beside all logits at once: time in turn, and compiled temporary memory.

    python experiments/bench_head.py

Cross entropy of random hidden states, its value and its gradients for hidden states and head, by `losses/tokens.py`
with its own budget of logits, and with one that lets all of them be. A sum over tokens costs three matmuls with the
head, as all logits at once do; what is nonlinear in the tokens' values (`--nonlinear`) four. Both are compiled first;
then they run in turn, and the ratio is taken round by round. Memory is XLA's own account of the compiled program, and
its second column leaves out an array of the head's size, its gradient.
Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.losses import tokens
from jaxllm.models.layers import matmul
from jaxllm.recipes.script import run as run_script
from jaxllm.types import Batch, InputError, Metrics


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the chunked head against all logits at once."""

    rows: int = 16
    """Rows of a batch."""
    length: int = 512
    """Length of a row, in tokens."""
    width: int = 512
    """Width of a hidden state, in features."""
    vocab: int = 50257
    """Size of the vocabulary, in tokens."""
    others: tuple[int, ...] = (25_000, 100_000, 200_000)
    """Vocabularies whose memory with the chunked head is reported too, in tokens."""
    tied: bool = False
    """Use a head of shape [V, D], as one that is tied to the embeddings has."""
    learned: float = 1.0
    """Share of the tokens that are learned, in one run of each row at a place of its own; the others have weight 0."""
    nonlinear: bool = False
    """Time a function of each row's log-probability, as preference losses are, instead of cross entropy."""
    dtype: str = "float32"
    """Type of hidden states and head: float32 or bfloat16."""
    rounds: int = 5
    """Number of times that each side runs."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Hidden states that are given, and a head."""

    hidden_BTD: jax.Array
    head_: jax.Array
    tied: bool

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        return self.hidden_BTD, {}

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        return matmul(hidden_ND, self.head_.T if self.tied else self.head_)


def learned(config: Config, draw: np.random.Generator) -> np.ndarray:
    """Weights [B, T]: 1 in a run of each row that is the share to learn."""
    count = round(config.learned * config.length)
    start_B1 = draw.integers(0, config.length - count + 1, (config.rows, 1))
    place_BT = np.arange(config.length)[None] - start_B1
    return ((place_BT >= 0) & (place_BT < count)).astype(np.float32)


def compiled(config: Config, vocab: int, batch: Batch, budget: int) -> Any:
    """(hidden, head, batch) -> loss and its gradients for both, with this many bytes of logits at a time."""
    hidden = jax.ShapeDtypeStruct((config.rows, config.length, config.width), config.dtype)
    shape = (vocab, config.width) if config.tied else (config.width, vocab)

    def loss(hidden: jax.Array, head: jax.Array, batch: Batch) -> jax.Array:
        if config.nonlinear:
            logps_BT, _ = tokens.over_tokens(Model(hidden, head, config.tied), batch, tokens.token_logprobs)
            return -jnp.sum(jax.nn.log_sigmoid(jnp.sum(logps_BT, 1) / config.length))
        return tokens.cross_entropy(Model(hidden, head, config.tied), batch)["loss"].value()

    before, tokens.LOGITS_BYTES = tokens.LOGITS_BYTES, budget
    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    made = step.lower(hidden, jax.ShapeDtypeStruct(shape, config.dtype), batch).compile()
    tokens.LOGITS_BYTES = before
    return made


def main(config: Config) -> None:
    """Compiles, runs in turn, prints."""
    if config.rounds < 1:
        raise InputError(f"--rounds {config.rounds}: at least 1 is needed")
    draw = np.random.default_rng(0)
    size = (config.rows, config.length)
    ones = np.ones(size, np.int32)
    batch = Batch(ones, draw.integers(0, min(config.vocab, *config.others), size, dtype=np.int32),
                  learned(config, draw), ones, ones)  # fmt: skip
    sides = {"chunked": tokens.LOGITS_BYTES, "at once": 2**60}
    for vocab in sorted({config.vocab, *config.others}):
        for name, budget in sides.items():
            if name == "chunked" or vocab == config.vocab:
                temp = compiled(config, vocab, batch, budget).memory_analysis().temp_size_in_bytes
                less = temp - jnp.dtype(config.dtype).itemsize * config.width * vocab
                print(f"vocabulary {vocab:>7,}  {name:<8} {temp / 1e6:>8,.1f} MB, less its gradient {less / 1e6:,.1f}")

    steps = {name: compiled(config, config.vocab, batch, budget) for name, budget in sides.items()}
    hidden = jnp.asarray(draw.normal(size=(*size, config.width)), config.dtype)
    shape = (config.vocab, config.width) if config.tied else (config.width, config.vocab)
    head = jnp.asarray(0.02 * draw.normal(size=shape), config.dtype)
    found = {name: jax.block_until_ready(step(hidden, head, batch)) for name, step in steps.items()}  # a warm heap
    for i, name in enumerate(("loss", "hidden", "head")):
        a, b = (np.ravel(x[0] if i == 0 else x[1][i - 1]) for x in found.values())
        print(f"largest difference of {name}: {np.abs(a - b).max() / np.abs(b).max():.1e} of the largest value")
    del found

    ratios, seconds = [], dict.fromkeys(steps, 0.0)
    for _ in range(config.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(hidden, head, batch))
            seconds[name] = time.perf_counter() - began
        ratios.append(seconds["chunked"] / seconds["at once"])
        print(", ".join(f"{name} {x:.2f} s" for name, x in seconds.items()), f"ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    run_script(main, Config)
