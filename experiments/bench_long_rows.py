"""Memory and time of a train step by the length of its rows: attention in blocks, beside attention over whole rows.

    python experiments/bench_long_rows.py
    python experiments/bench_long_rows.py --whole --lengths 2048 4096

A row is one causal document. Attention in blocks: Dao et al. 2022, FlashAttention. Temporaries are the compiler's own
(`memory_analysis`); seconds are the best of a few steps after the first. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import optax

from jaxllm.losses import resolve
from jaxllm.models import attention
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from jaxllm.recipes.script import run as run_script
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """Compiles, and runs, a step of a Llama on one row of each length."""

    lengths: tuple[int, ...] = (2048, 4096, 8192)
    """Lengths of the row, in tokens."""
    width: int = 4096
    """Width of the model, in features; its heads have 128."""
    depth: int = 1
    """Depth of the model, in layers."""
    vocabulary: int = 1024
    """Size of the vocabulary, in tokens."""
    whole: bool = False
    """Compute attention over whole rows instead of in blocks."""
    steps: int = 2
    """Steps to time after the first; 0 to compile alone."""


def measure(config: Config, length: int) -> tuple[float, float]:
    """Temporaries in MiB, and the seconds of the quickest step (not a number where none is run)."""
    shape = Shape(
        vocab_size=config.vocabulary, width=config.width, depth=config.depth, heads=max(1, config.width // 128),
        kv_heads=max(1, config.width // 512), mlp_width=3 * config.width, max_positions=length, remat="full",
    )  # fmt: skip
    spec, optimizer = describe(lambda rngs: Decoder(shape, rngs), SHARDING), optax.sgd(1e-3)
    step = jax.jit(make_train_step(spec.graphdef, resolve("cross_entropy"), optimizer, seed=0), donate_argnums=0)
    params = jax.jit(spec.init)(jax.random.key(0))
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    tokens_BT = jax.random.randint(jax.random.key(1), (1, length), 0, config.vocabulary)
    ones_BT = jnp.ones((1, length), jnp.int32)
    batch = Batch(tokens_BT, tokens_BT, ones_BT.astype(jnp.float32), ones_BT, jnp.arange(length)[None])
    compiled = step.lower(state, batch).compile()
    best = float("nan")
    for number in range(config.steps + bool(config.steps)):
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        best = best if not number else min(time.perf_counter() - start, best if best == best else float("inf"))
    return compiled.memory_analysis().temp_size_in_bytes / 2**20, best


def main(config: Config) -> None:
    """Prints a line for each length."""
    if config.whole:
        attention.LONG = 1 << 30
    print("tokens  temporaries MiB  per token KiB  step s  times the first")
    first = 0.0
    for length in config.lengths:
        memory, seconds = measure(config, length)
        first = first or seconds
        print(
            f"{length:>6}  {memory:>15,.0f}  {memory * 1024 / length:>13.1f}  {seconds:>6.2f}  {seconds / first:>15.2f}"
        )


if __name__ == "__main__":
    run_script(main, Config)
