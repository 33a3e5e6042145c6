"""The head alone, forward and backward: in chunks, beside its bare matrix products and beside all logits at once."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bench_head
from checks.record import Config, Record, failure
from jaxllm.losses import tokens
from jaxllm.recipes.script import run as run_script
from jaxllm.types import Batch

SIZES = bench_head.Config(rows=4, length=2048, width=4096, vocab=151_936, dtype="bfloat16")
TOY = bench_head.Config(rows=2, length=64, width=32, vocab=2048, dtype="bfloat16")
PUBLISHED = {
    "bare matrix products": "42 ms", "all logits": "59 ms, 19.9 GiB", "TRL's chunks": "167 ms, 13.1 GiB",
    "Liger": "192 ms, 6.1 GiB",
}  # fmt: skip
"""At SIZES on one H100, by TRL's authors."""


def bare(hidden: jax.Array, head: jax.Array) -> Any:
    """The three products of a forward and a backward pass, of which the logits stand for their own gradient."""
    hidden_MD = hidden.reshape(-1, hidden.shape[-1])
    logits_MV = hidden_MD @ head
    return logits_MV @ head.T, hidden_MD.T @ logits_MV


def best_ms(step: Any, *given: Any) -> float:
    """The time of the best of five calls after the first, in milliseconds."""
    jax.block_until_ready(step(*given))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(step(*given))
        seconds.append(time.perf_counter() - began)
    return min(seconds) * 1e3


def main(config: Config) -> None:
    """Measures each side."""
    record, sizes = Record(config), TOY if config.small else SIZES
    draw, shape = np.random.default_rng(0), (sizes.rows, sizes.length)
    ones = np.ones(shape, np.int32)
    batch = Batch(ones, draw.integers(0, sizes.vocab, shape, dtype=np.int32), ones.astype(np.float32), ones, ones)
    hidden = jax.random.normal(jax.random.key(0), (*shape, sizes.width), sizes.dtype)
    head = 0.02 * jax.random.normal(jax.random.key(1), (sizes.width, sizes.vocab), sizes.dtype)
    where = f"{shape[0] * shape[1]:,} tokens, width {sizes.width:,}, vocabulary {sizes.vocab:,}, {sizes.dtype}"
    sides = {
        "bare matrix products": lambda: jax.jit(bare).lower(hidden, head).compile(),
        "in chunks": lambda: bench_head.compiled(sizes, sizes.vocab, batch, tokens.LOGITS_BYTES),
        "in chunks, a function of sums": lambda: bench_head.compiled(
            dataclasses.replace(sizes, nonlinear=True), sizes.vocab, batch, tokens.LOGITS_BYTES
        ),
        "all logits": lambda: bench_head.compiled(sizes, sizes.vocab, batch, 2**60),
    }  # fmt: skip
    found: dict[str, float] = {}
    for name, build in sides.items():
        if record.late(name):
            continue
        try:
            step = build()
            given = (hidden, head) if name.startswith("bare") else (hidden, head, jax.device_put(batch))
            found[name] = best_ms(step, *given)
        except Exception as error:  # it does not fit
            record.add(name, error=failure(error))
            continue
        memory = step.memory_analysis()
        record.add(
            name, time_ms=found[name], temporaries_gib=memory.temp_size_in_bytes / 2**30,
            results_gib=memory.output_size_in_bytes / 2**30,
            of_bare=found[name] / found.get("bare matrix products", float("nan")), at=where,
        )  # fmt: skip
    if not config.small:
        record.add("elsewhere, on one H100", **{name.replace(" ", "_"): text for name, text in PUBLISHED.items()})
    compare_gradients(record, sizes, batch, hidden, head)
    record.end()


def compare_gradients(
    record: Record, sizes: bench_head.Config, batch: Batch, hidden: jax.Array, head: jax.Array
) -> None:
    """Both ways give the same gradient, up to what the type rounds."""
    if record.late("gradients"):
        return
    try:
        sides = [bench_head.compiled(sizes, sizes.vocab, batch, n)(hidden, head, jax.device_put(batch))[1]
                 for n in (tokens.LOGITS_BYTES, 2**60)]  # fmt: skip
    except Exception as error:  # all logits do not fit
        record.add("gradients", error=failure(error))
        return
    apart = max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))) / jnp.max(jnp.abs(b)).astype(jnp.float32))
        for a, b in zip(*sides, strict=True)
    )
    record.add("gradients in chunks and of all logits", apart < 0.02, differ=apart)


if __name__ == "__main__":
    run_script(main, Config)
