"""How fast prompts are continued as one batch by `evals/generate.py`: our side of the stage generate of benchmark.py.

    python experiments/decode.py --model path/to/llama --prompts prompts.json --out decoded

A fixed number of tokens, each drawn from the model's own probabilities, after a round that is not timed. Beside it, the
least time that a step can take on a machine whose memory is the limit: that of reading all weights and the cache once,
at the speed at which an array much larger than any cache is read in the same process.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.generate import generate
from jaxllm.evals.sampling import Sampling
from jaxllm.models.flops import model_flops
from jaxllm.recipes.benchmark import GIB
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.run.usage import age_s, cpu_s, device_bytes, host_bytes
from jaxllm.types import InputError, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """Continues prompts again and again, and measures the speed of new tokens."""

    model: str
    """Folder of a causal language model."""
    prompts: Path
    """JSON file with a list of prompts, each a list of token ids."""
    out: Path
    """Folder to write measured.json to."""
    tokens: int = 64
    """New tokens of each prompt."""
    rounds: int = 3
    """Number of times that the prompts are continued and timed."""
    dtype: str = "float32"
    """Type that the model computes in: float32 or bfloat16."""
    temperature: float = 1.0
    """Divides the logits before a token is drawn; 0 takes the likeliest token."""


def bytes_of(shape: Any, params: Params, prompts: list[list[int]], tokens: int) -> float:
    """That a step must read: the weights, of which an untied embedding is a row a token, and half of the new cache."""
    weights = sum(x.nbytes for name, x in params.items() if shape.tied or not name.startswith("embeddings."))
    slots = sum(len(prompt) + tokens / 2 for prompt in prompts)
    per_slot = 2 * shape.depth * shape.K * shape.H
    return weights + slots * per_slot * jnp.dtype(shape.dtype).itemsize


def read_speed(size: int = 2**28) -> float:
    """Bytes a second: the best of XLA's sum of an array of float32 and, on a CPU, of one dot product per core."""
    x, found = jnp.ones(size, jnp.float32), 0.0
    total = jax.jit(jnp.sum)
    on_cpu = x.devices().pop().platform == "cpu"
    parts = np.array_split(np.asarray(x), os.cpu_count() or 1) if on_cpu else []
    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        ways: list[Callable[[], Any]] = [lambda: total(x).block_until_ready()]
        ways += [lambda: list(pool.map(np.dot, parts, parts))] if parts else []
        for way in ways:
            for _ in range(5):
                began = time.perf_counter()
                way()
                found = max(found, x.nbytes / (time.perf_counter() - began))
    return found


def main(config: Config) -> None:
    """Measures and writes."""
    if min(config.rounds, config.tokens) < 1:
        raise InputError(f"--rounds {config.rounds} --tokens {config.tokens}: at least 1 of each is needed")
    opened = open_weights(config.model, "lm", dtype=config.dtype)
    mesh = make_mesh()
    params = load_params(opened.spec, mesh)
    prompts = json.loads(config.prompts.read_text())
    starts: list[float] = []
    draw = partial(generate, opened.spec.graphdef, params, prompts, Sampling(config.temperature))

    def first(row: int, token: int, last: bool) -> None:
        if not starts:
            starts.extend((age_s(), cpu_s()))

    began = time.perf_counter()
    draw(max_tokens=config.tokens, on_token=first)
    compile_s, began = time.perf_counter() - began, time.perf_counter()
    for _ in range(config.rounds):
        new = draw(max_tokens=config.tokens)
    seconds = (time.perf_counter() - began) / config.rounds
    count = sum(map(len, new))
    draw(max_tokens=1)  # compiles: a cache has fewer slots for fewer tokens
    began = time.perf_counter()
    for _ in range(config.rounds):
        draw(max_tokens=1)
    prefill = (time.perf_counter() - began) / config.rounds
    peaks = {"host_gib": host_bytes(peak=True), "device_gib": device_bytes(mesh.local_devices, peak=True)}
    step = (seconds - prefill) / max(1, config.tokens - 1)
    bytes_read, speed = bytes_of(opened.config, params, prompts, config.tokens), read_speed()
    bound = bytes_read / speed
    print(f"a step after the first takes {step * 1e3:.1f} ms, reading {bytes_read / 1e6:,.0f} MB once at "
          f"{speed / 1e9:.1f} GB/s {bound * 1e3:.1f} ms: {step / bound:.2f} times the bound")  # fmt: skip
    forward = model_flops(opened.spec, {}).per_token / 3  # of training a third is the forward pass
    measured = {
        "tokens_per_s": count / seconds, "step_s": seconds / max(map(len, new)), "start_s": starts[0],
        "start_cpu_s": starts[1], "compile_s": compile_s, "flops_per_s": forward * count / seconds,
        "decode_s": step, "bound_s": bound, "prefill_s": prefill,
        **{name: None if x is None else x / GIB for name, x in peaks.items()},
    }  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "measured.json").write_text(json.dumps({"measured": measured}))


if __name__ == "__main__":
    run_script(main, Config)
