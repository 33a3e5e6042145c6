"""How fast the best large matrix product of JAX is on this device: what a benchmark holds a train step against.

    python experiments/matmul.py
    python experiments/matmul.py --dtype bfloat16 --shapes 512x512x512

Each shape is multiplied again and again for a while, a call at a time; the fastest call counts, for others may have
been disturbed. experiments/peers/torch_matmul.py does the same in PyTorch. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Times matrix products of JAX."""

    dtype: str = "float32"
    """Type of the factors: float32 or bfloat16."""
    shapes: tuple[str, ...] = ()
    """Products to time, each as ROWSxINNERxCOLUMNS; by default squares of 1,024 and 2,048, on accelerators of 4,096 and
    8,192."""
    seconds: float = 1.0
    """Time for each shape, in seconds."""
    json: Path | None = None
    """File to write the FLOP/s of each shape to."""


def flops_per_s(shape: tuple[int, int, int], dtype: str, seconds: float) -> float:
    """Of the fastest product [M, K] x [K, N], a multiply-add counted as two."""
    M, K, N = shape
    a_MK, b_KN = (jax.random.normal(jax.random.key(i), x, dtype) for i, x in enumerate(((M, K), (K, N))))
    product = jax.jit(lambda a_MK, b_KN: jnp.matmul(a_MK, b_KN))
    jax.block_until_ready(product(a_MK, b_KN))
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        jax.block_until_ready(product(a_MK, b_KN))
        best = min(best, time.perf_counter() - began)
    return 2 * M * K * N / best


def read_shape(text: str) -> tuple[int, int, int]:
    """ "2048x384x1536" as numbers. Raises InputError."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
        raise InputError(f"--shapes {text}: give ROWSxINNERxCOLUMNS, as in 2048x2048x2048")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def main(config: Config) -> None:
    """Times each shape and prints the best."""
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"--dtype {config.dtype}: give float32 or bfloat16")
    sizes = (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192)
    found = {}
    for text in config.shapes or [f"{n}x{n}x{n}" for n in sizes]:
        found[text] = flops_per_s(read_shape(text), config.dtype, config.seconds)
        print(f"{text} {found[text] / 1e9:,.0f} GFLOP/s", flush=True)
    if config.json is not None:
        device = jax.devices()[0]
        report = {"library": "jax", "device": device.device_kind, "platform": device.platform, "flops_per_s": found}
        config.json.write_text(json.dumps({**report, "devices": jax.device_count()}) + "\n")


if __name__ == "__main__":
    run_script(main, Config)
