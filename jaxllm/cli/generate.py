"""`python -m jaxllm generate`: continues prompts with a trained decoder, and streams the text."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxllm.data.report import check_argument
from jaxllm.evals.generate import Sampling
from jaxllm.evals.text import continue_texts, encode
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Continues prompts with a causal language model, all of them as one batch, printing the text as it comes."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a decoder."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to continue; "" begins a new document."""
    max_tokens: int = 128
    """Length of a continuation in tokens, at most."""
    temperature: float = 0.8
    """Temperature that the logits are divided by; 0 always takes the most likely token."""
    top_k: int = 0
    """Number of most likely tokens to sample from; 0 for all."""
    top_p: float = 1.0
    """Sample from the most likely tokens whose probabilities first sum to this."""
    seed: int = 0
    """Seed of the samples."""
    stop: tuple[str, ...] = ()
    """Texts at which a continuation ends, besides the model's own end tokens; they are not printed. \\n, \\t and
    \\\\ stand for a new line, a tab and a backslash; the name of a special token is one too. By default none."""
    chat: bool = False
    """Treat each prompt as a user's message and put it into the tokenizer's chat template."""
    dtype: str = "float32"
    """Type that the model computes in: float32 or bfloat16."""
    mesh: str = ""
    """Devices per axis, for example fsdp=8 or tensor=4; by default each device holds the whole model."""


def in_turn(begins: Sequence[str], show: Callable[[str], None]) -> Callable[[int, str, bool], None]:
    """A `write` for a terminal: rows one below the other, each after its beginning, the first unfinished one live."""
    waiting, ended, now = [[begin] for begin in begins], [False] * len(begins), 0

    def write(row: int, text: str, last: bool) -> None:
        nonlocal now
        waiting[row].append(text)
        ended[row] = last
        while now < len(begins):
            show("".join(waiting[now]) + "\n" * ended[now])
            waiting[now].clear()
            if not ended[now]:
                break
            now += 1

    return write


def unescape(text: str) -> str:
    """A text as it was typed in a shell, with its new lines and tabs."""
    return re.sub(r"\\([nrt\\])", lambda found: {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[found[1]], text)


def main(config: Config) -> None:
    """Loads the model, continues the prompts, prints."""
    from jaxllm import hf
    from jaxllm.distributed import mesh as meshes
    from jaxllm.models.decoder import PRESETS
    from jaxllm.recipes.weights import load_params, open_weights

    if not config.prompts:
        raise InputError("no prompt: give one or more after the model")
    for text in (*config.prompts, *config.stop):
        check_argument(text, "the prompt")
    if config.max_tokens < 1:
        raise InputError(f"--max-tokens {config.max_tokens}: at least 1 is needed")
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"--dtype {config.dtype}: give one of float32, bfloat16")
    if config.model in PRESETS and not Path(config.model).exists():
        raise InputError(f"{config.model} is a preset, which has no weights: train it, and name the run's folder")
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    mesh = meshes.make_mesh(config.mesh)
    opened = open_weights(config.model, "lm", dtype=config.dtype)
    tokenizer = opened.load_tokenizer()
    prompts = [encode(prompt, tokenizer, chat=config.chat) for prompt in config.prompts]
    for note in hf.unused_generation_fields(opened.folder):
        print(note, file=sys.stderr)
    params = load_params(opened.spec, mesh)

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    several = len(prompts) > 1
    begins = [("> " + prompt + "\n") * several if config.chat else prompt for prompt in config.prompts]
    continue_texts(
        opened.spec.graphdef, params, tokenizer, prompts, sampling, max_tokens=config.max_tokens,
        ends=hf.special_tokens(tokenizer, opened).ends, stop=[*map(unescape, config.stop)], seed=config.seed,
        write=in_turn(begins, show),
    )  # fmt: skip
