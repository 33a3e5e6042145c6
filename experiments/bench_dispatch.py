"""What the host does for each step: the time until a call of the train step returns, while nothing is waited for.

    python experiments/bench_dispatch.py

A decoder with so little to compute that the host is what is measured. Processor time of the calling thread, so that
other work on the machine does not count; and by the clock. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax
import numpy as np

from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.decoder import Config as Shape
from jaxllm.models.heads import describe_model
from jaxllm.recipes.script import run as run_script
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.setup import init_state, prepare
from jaxllm.types import Batch, InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Times calls of the train step on the host."""

    depth: int = 12
    """Layers."""
    calls: int = 300
    """Number of steps that are timed, after ten that are not."""


def main(config: Config) -> None:
    """Measures and prints medians."""
    if min(config.depth, config.calls) < 1:
        raise InputError(f"--depth {config.depth} --calls {config.calls}: at least 1 of each is needed")
    shape = Shape(vocab_size=32, width=16, depth=config.depth, heads=2, mlp_width=16, max_positions=16, unroll=1)
    model, optim, mesh = describe_model(shape), OptimConfig(), make_mesh()
    optimizer = make_optimizer(optim, model.trained, make_schedule(optim, 1000))
    step, layout = prepare(model, cross_entropy, optimizer, mesh)
    state, rows = init_state(model, optimizer, layout), mesh.size
    ids = np.ones((rows, 8), np.int32)
    batch = put_batch(Batch(ids, ids, ids.astype(np.float32), ids, np.cumsum(ids, 1) - 1), mesh, rows)  # type: ignore[arg-type]
    clock, cpu = [], []
    for call in range(config.calls + 10):
        jax.block_until_ready(state)
        began, used = time.perf_counter(), time.thread_time()
        state, _ = step(state, batch)
        if call >= 10:
            cpu.append(time.thread_time() - used)
            clock.append(time.perf_counter() - began)
    leaves = len(jax.tree.leaves(state))
    took, worked = (statistics.median(times) * 1e3 for times in (clock, cpu))
    print(f"{config.depth} layers, {leaves} arrays of state: a call returns after {took:.2f} ms, "
          f"of which {worked:.2f} ms of processor time")  # fmt: skip


if __name__ == "__main__":
    run_script(main, Config)
