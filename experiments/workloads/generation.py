"""Generation: prompts continued as one batch, here by `evals/generate.py`, there by `generate` of transformers.

    python experiments/workloads/generation.py --model MODEL --prompts prompts.json --out OUT

is our side alone: the likeliest token each time, a fixed number of them, after a round that is not timed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.builtin import questions
from jaxllm.data.chat.templates import give_pad
from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.generate import generate
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.models.flops import model_flops
from jaxllm.params import describe
from jaxllm.recipes.benchmark import GIB
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.run.usage import age_s, cpu_s, device_bytes, host_bytes
from jaxllm.types import InputError
from workloads.work import HERE, OUT, Asked, Peer, Work, of_size, words

SIZES = {
    "small": Shape(vocab_size=4096, width=256, depth=4, heads=4, mlp_width=688, max_positions=1024),
    "large": Shape(vocab_size=4096, width=768, depth=12, heads=12, mlp_width=2048, max_positions=1024),
}
TOKENS = 64
"""New tokens of each prompt, where --max-length does not say."""
BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Continues prompts again and again, and measures the speed of new tokens."""

    model: str
    """Folder of a causal language model."""
    prompts: Path
    """JSON file with a list of prompts, each a list of token ids."""
    out: Path
    """Folder to write measured.json to."""
    tokens: int = TOKENS
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


def prepare(asked: Asked, folder: Path) -> Work:
    """A random Llama, or the one that `--model` names, continues questions; `--max-length` is the number of new tokens,
    `--steps` of rounds."""
    shape, batch_size = of_size(asked, SIZES), asked.batch_size or BATCH_SIZE
    tokens, rounds = asked.max_length or TOKENS, asked.steps or 3
    asked_rows = [row["question"] for row in questions.sft()["train"]]
    model = Path(asked.model).absolute() if asked.model else folder / "model"
    if asked.model:
        tokenizer = hf.load_tokenizer(str(model))
    else:
        tokenizer = tokenizers.bpe(iter(asked_rows), shape.vocab_size - 1)
        give_pad(tokenizer)
        params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
        hf.export(model, params, shape, tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in asked_rows[:batch_size]]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    same = ("--model", model, "--prompts", folder / "prompts.json", "--tokens", tokens, "--rounds", rounds)
    ours = words(Path(__file__).absolute(), *same, "--dtype", asked.dtype, "--out", OUT)
    theirs = words(HERE / "peers" / "hf_generate.py", *same, "--dtype", asked.dtype, "--json", OUT)
    length = float(np.mean(list(map(len, prompts))))
    described = f"{asked.model or 'a random Llama'}, {batch_size} prompts of {length:.0f} tokens and {tokens} new ones"
    return Work(described, ours, {"transformers": Peer("hf", ("torch", "transformers"), theirs)})


if __name__ == "__main__":
    run_script(main, Config)
