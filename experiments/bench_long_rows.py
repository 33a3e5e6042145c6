"""Memory and time of a train step by the length of its rows: attention in blocks, beside attention over whole rows.

    python experiments/bench_long_rows.py
    python experiments/bench_long_rows.py --whole --lengths 2048 4096

A row is one causal document. Attention in blocks: Dao et al. 2022, FlashAttention. Temporaries are the compiler's own
(`memory_analysis`). Lengths take turns after each one's first step; seconds are those of the best step, and on a CPU
those of all its threads together, which other work on the machine disturbs less. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxllm.losses import resolve
from jaxllm.models import attention
from jaxllm.models.decoder import Config as Shape
from jaxllm.models.heads import describe_model
from jaxllm.models.remat import REMAT
from jaxllm.recipes.script import run as run_script
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, TrainState, check_one_of


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
    remat: str = "attention"
    """What a layer keeps for the backward pass: a policy of --remat."""
    whole: bool = False
    """Compute attention over whole rows instead of in blocks."""
    steps: int = 2
    """Steps of each length to time after its first; 0 to compile alone."""


def prepare(config: Config, length: int) -> tuple[float, Callable[[], float]]:
    """Temporaries in MiB, and a function that takes a step and gives its seconds."""
    shape = Shape(
        vocab_size=config.vocabulary, width=config.width, depth=config.depth, heads=max(1, config.width // 128),
        kv_heads=max(1, config.width // 512), mlp_width=3 * config.width, max_positions=length, remat=config.remat,
    )  # fmt: skip
    spec, optimizer = describe_model(shape), optax.sgd(1e-3)
    step = jax.jit(make_train_step(spec.graphdef, resolve("cross_entropy"), optimizer, seed=0), donate_argnums=0)
    params = jax.jit(spec.init)(jax.random.key(0))
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    tokens_BT = jax.random.randint(jax.random.key(1), (1, length), 0, config.vocabulary)
    ones_BT = jnp.ones((1, length), jnp.int32)
    batch = Batch(tokens_BT, tokens_BT, ones_BT.astype(jnp.float32), ones_BT, jnp.arange(length)[None])
    compiled = step.lower(state, batch).compile()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    kept = [state]

    def take() -> float:
        began = clock()
        state, metrics = compiled(kept.pop(), batch)
        kept.append(jax.block_until_ready((state, metrics))[0])
        return clock() - began

    return compiled.memory_analysis().temp_size_in_bytes / 2**20, take


def main(config: Config) -> None:
    """Prints a line for each length."""
    check_one_of("--remat", config.remat, REMAT)
    if config.whole:
        attention.LONG = 1 << 30
    made = {length: prepare(config, length) for length in config.lengths}
    rounds = [{length: take() for length, (_, take) in made.items()} for _ in range(config.steps + bool(config.steps))]
    best = {length: min((one[length] for one in rounds[1:]), default=float("nan")) for length in made}
    print("tokens  temporaries MiB  per token KiB  step s  times the first")
    for length, (memory, _) in made.items():
        times = best[length] / best[config.lengths[0]]
        print(f"{length:>6}  {memory:>15,.0f}  {memory * 1024 / length:>13.1f}  {best[length]:>6.2f}  {times:>15.2f}")


if __name__ == "__main__":
    run_script(main, Config)
