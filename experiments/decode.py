"""How fast prompts are continued as one batch by `evals/generate.py`: our side of the stage generate of benchmark.py.

    python experiments/decode.py --model path/to/llama --prompts prompts.json --out decoded

The likeliest token each time, a fixed number of them, after a round that is not timed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.generate import generate
from jaxllm.models.flops import model_flops
from jaxllm.recipes.benchmark import GIB
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.run.usage import age_s, cpu_s, device_bytes, host_bytes
from jaxllm.types import InputError


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


def main(config: Config) -> None:
    """Measures and writes."""
    if min(config.rounds, config.tokens) < 1:
        raise InputError(f"--rounds {config.rounds} --tokens {config.tokens}: at least 1 of each is needed")
    opened = open_weights(config.model, "lm", dtype=config.dtype)
    mesh = make_mesh()
    params = load_params(opened.spec, mesh)
    prompts = json.loads(config.prompts.read_text())
    starts: list[float] = []

    def first(row: int, token: int, last: bool) -> None:
        if not starts:
            starts.extend((age_s(), cpu_s()))

    began = time.perf_counter()
    generate(opened.spec.graphdef, params, prompts, max_tokens=config.tokens, on_token=first)
    compile_s, began = time.perf_counter() - began, time.perf_counter()
    for _ in range(config.rounds):
        new = generate(opened.spec.graphdef, params, prompts, max_tokens=config.tokens)
    seconds = (time.perf_counter() - began) / config.rounds
    count = sum(map(len, new))
    forward = model_flops(opened.spec, {}).per_token / 3  # of training a third is the forward pass
    peaks = {"host_gib": host_bytes(peak=True), "device_gib": device_bytes(mesh.local_devices, peak=True)}
    measured = {
        "tokens_per_s": count / seconds, "step_s": seconds / max(map(len, new)), "start_s": starts[0],
        "start_cpu_s": starts[1], "compile_s": compile_s, "flops_per_s": forward * count / seconds,
        **{name: None if x is None else x / GIB for name, x in peaks.items()},
    }  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "measured.json").write_text(json.dumps({"measured": measured}))


if __name__ == "__main__":
    run_script(main, Config)
