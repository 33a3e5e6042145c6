"""How compile time grows with depth: the train step of a shallow and of a deep decoder, compiled in turn.

    python experiments/bench_compile.py

Blocks are stacked and scanned, so with one block per iteration of the loop the program is the same whatever the depth.
What is timed is tracing, lowering and compiling, without the cache of compiled programs.
Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp

from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import describe_model
from jaxllm.recipes.script import run as run_script
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.step import make_train_step
from jaxllm.types import Batch, InputError, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the compilation of the train step at two depths."""

    model: str = "gpt2-124m"
    """Preset whose depth is replaced."""
    depths: tuple[int, int] = (12, 48)
    """Two depths to compare, in layers."""
    unroll: int = 1
    """Layers per iteration of the compiled loop."""
    rounds: int = 3
    """Number of times that each depth is compiled."""


def seconds(config: Config, depth: int) -> float:
    """Of tracing, lowering and compiling the step of so many layers."""
    shape = dataclasses.replace(PRESETS[config.model], depth=depth, unroll=config.unroll)
    graphdef = describe_model(shape).graphdef
    optim = OptimConfig()
    optimizer = make_optimizer(optim, graphdef.abstract, make_schedule(optim, 1000))
    step = make_train_step(graphdef, cross_entropy, optimizer, seed=0)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32), graphdef.abstract, jax.eval_shape(optimizer.init, graphdef.abstract)
    )
    ids, weights = jax.ShapeDtypeStruct((4, 256), jnp.int32), jax.ShapeDtypeStruct((4, 256), jnp.float32)
    began = time.perf_counter()
    jax.jit(step, donate_argnums=0).lower(state, Batch(ids, ids, weights, ids, ids)).compile()
    return time.perf_counter() - began


def main(config: Config) -> None:
    """Compiles in turn and prints."""
    if config.model not in PRESETS or config.rounds < 1:
        raise InputError(f"--model {config.model} --rounds {config.rounds}: give a preset and at least one round")
    jax.config.update("jax_enable_compilation_cache", False)
    ratios = []
    seconds(config, config.depths[0])  # what starts lazily
    for _ in range(config.rounds):
        shallow, deep = (seconds(config, depth) for depth in config.depths)
        ratios.append(deep / shallow)
        print(f"{config.depths[0]} layers {shallow:.1f} s, {config.depths[1]} layers {deep:.1f} s, "
              f"ratio {ratios[-1]:.2f}", flush=True)  # fmt: skip
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    run_script(main, Config)
