"""Memory and time of attention alone by each of its implementations, forward and backward, by the length of rows.

    python experiments/bench_attention.py                           # on this machine's device
    python experiments/bench_attention.py --topology h100:1x1x1     # compiled for one that is not here, memory alone

Temporaries are the compiler's own (`memory_analysis`). Seconds are those of the best of a few calls, and FLOP/s count
the half of the scores that a causal row sees, 3.5 times the forward pass's two products (Dao 2023). A backend that
gives way to another at a length has no row there. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxllm import planning
from jaxllm.models.attention import Tokens, attention
from jaxllm.models.backends import BACKENDS, Asked, choose
from jaxllm.plan.target import compiling, devices_of, parse_target, prepare
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Compiles attention in every way that there is for a device, and runs it where that device is here."""

    topology: str = ""
    """Hardware that is not here, as for `python -m jaxllm plan`, such as h100:1x1x1."""
    lengths: tuple[int, ...] = (2048, 4096, 8192)
    """Lengths of the row, in tokens; it is one causal document."""
    rows: int = 1
    """Rows."""
    heads: int = 32
    """Heads of queries."""
    kv_heads: int = 8
    """Heads of keys and values."""
    features: int = 128
    """Features of a head."""
    dtype: str = "bfloat16"
    """Type of queries, keys and values."""
    rounds: int = 5
    """Number of calls to time."""


def step_of(config: Config, backend: str) -> Callable[..., Any]:
    """(q, k, v, segments, positions) -> gradients of the sum of the result."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        tokens = Tokens(segments_BT, positions_BT)
        y = attention(q, k, v, tokens, tokens, causal=True, windows=(), backend=backend)
        return jnp.sum(y.astype(jnp.float32))

    return jax.grad(loss, (0, 1, 2))


def shapes_of(config: Config, length: int, at: Any) -> list[Any]:
    """Of the arguments of a step."""
    shape = lambda dtype, *sizes: jax.ShapeDtypeStruct((config.rows, length, *sizes), dtype, sharding=at)  # noqa: E731
    heads = [shape(config.dtype, n, config.features) for n in (config.heads, config.kv_heads, config.kv_heads)]
    return [*heads, shape(jnp.int32), shape(jnp.int32)]


def measure(config: Config, backend: str, length: int, device: Any, run: bool) -> dict[str, float]:
    """`temporaries` in bytes and, where it is run, `seconds` and `flops_per_s`."""
    compiled = (
        jax.jit(step_of(config, backend)).lower(*shapes_of(config, length, SingleDeviceSharding(device))).compile()
    )
    found: dict[str, float] = {"temporaries": compiled.memory_analysis().temp_size_in_bytes}
    if not run:
        return found
    draw = lambda i, like: jax.random.normal(jax.random.key(i), like.shape, like.dtype)  # noqa: E731
    q, k, v = map(draw, range(3), shapes_of(config, length, None)[:3])
    ones_BT = jnp.ones((config.rows, length), jnp.int32)
    given = jax.device_put((q, k, v, ones_BT, jnp.cumsum(ones_BT, axis=1) - 1), device)
    jax.block_until_ready(compiled(*given))
    seconds = []
    for _ in range(config.rounds):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        seconds.append(time.perf_counter() - began)
    found["seconds"] = min(seconds)
    flops = 3.5 * 2 * 2 * config.rows * config.heads * length * length * config.features / 2
    return found | {"flops_per_s": flops / found["seconds"]}


def available(config: Config, length: int) -> list[str]:
    """The backends that compute rows of this length themselves on the platform computed for."""
    asked = Asked(length, length, config.features, config.dtype, causal=True)
    names = {"gpu": ("xla", "flash", "cudnn"), "tpu": ("xla", "splash")}
    own = names.get(planning.platform(), ("xla",))
    return [name for name in BACKENDS if name in own and choose(name, asked).backend == name]


def main(config: Config) -> None:
    """Prints a line for each length and backend."""
    if config.rounds < 1 or config.heads % config.kv_heads:
        raise InputError("--rounds must be at least 1, and --kv-heads divide --heads")
    print("tokens  by       temporaries MiB  per token KiB         ms  TFLOP/s")
    if not config.topology:
        table(config, jax.devices()[0], True)
        return
    target = parse_target(config.topology)
    prepare(target)
    devices = devices_of(target)
    with planning.planned(planning.Planning(devices[:1], target.platform, Path())), compiling(target):
        table(config, devices[0], target.platform == "cpu")


def table(config: Config, device: Any, run: bool) -> None:
    """The lines."""
    for length in config.lengths:
        for backend in available(config, length):
            found = measure(config, backend, length, device, run)
            memory = found["temporaries"] / 2**20
            line = f"{length:>6}  {backend:<7}  {memory:>15,.1f}  {memory * 1024 / length:>13.1f}"
            if run:
                line += f"  {found['seconds'] * 1e3:>9,.2f}  {found['flops_per_s'] / 1e12:>7,.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    run_script(main, Config)
