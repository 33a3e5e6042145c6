"""Pairs a second where both answers share their prompt's computation, beside the prompt computed before each of them.

    python experiments/bench_prompts.py

A train step of DPO with cached log-probabilities of the reference, one pair a row, on the first device. Both ways take
turns, and the ratio is taken round by round; on a CPU times are those of all its threads together, which other work on
the machine disturbs less. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

from checks.steps import Stepper, Work
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.models.decoder import Config as Shape
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Times a DPO step with prompts shared and repeated."""

    prompt: int = 512
    """Length of each prompt, in tokens."""
    answer: int = 64
    """Length of each answer, in tokens."""
    pairs: int = 4
    """Pairs of a batch."""
    width: int = 256
    """Width of the Llama, in features."""
    depth: int = 4
    """Depth of the Llama, in layers."""
    vocabulary: int = 4096
    """Size of the vocabulary, in tokens."""
    dtype: str = "float32"
    """Type that is computed in: float32 or bfloat16."""
    rounds: int = 5
    """Number of times that each side runs."""


def batch_of(config: Config, layout: Layout) -> Any:
    """Rows of one pair each, as long as the layout makes them."""
    answers = tuple(Answer(np.ones(config.answer, np.int32), np.ones(config.answer, bool), side) for side in (1, -1))
    groups = [Group(np.ones(config.prompt, np.int32), answers)] * config.pairs
    logps = [[-np.ones(layout.size(one), np.float32) for one in group.answers] for group in groups]
    rows = AnswerRows(groups, layout, logps)
    return rows.collate([[i] for i in range(config.pairs)], max(rows.lengths), config.pairs, 2)


def main(config: Config) -> None:
    """Compiles both, runs them in turn, prints."""
    if min(config.rounds, config.pairs, config.prompt, config.answer) < 1:
        raise InputError("--rounds, --pairs, --prompt and --answer must be at least 1")
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    shape = Shape(
        vocab_size=config.vocabulary, width=config.width, depth=config.depth, heads=max(1, config.width // 64),
        mlp_width=config.width * 8 // 3, max_positions=config.prompt + config.answer, dtype=config.dtype,
    )  # fmt: skip
    sides, losses = {}, {}
    for name, share in (("shared", True), ("twice", False)):
        work = Work(shape, "dpo", batch_of(config, Layout(share)))
        sides[name] = Stepper(work, "none")
        losses[name] = float(sides[name]()["loss"].value())
        print(
            f"{name:<7} rows of {work.batch.batch.tokens_BT.shape[1]} tokens, loss of the first step {losses[name]:.6f}"
        )
    ratios = []
    for _ in range(config.rounds):
        seconds = {}
        for name, step in sides.items():
            began = clock()
            jax.block_until_ready((step(), step.state))
            seconds[name] = clock() - began
        ratios.append(seconds["twice"] / seconds["shared"])
        speeds = ", ".join(f"{name} {config.pairs / x:.2f} pairs/s" for name, x in seconds.items())
        print(f"{speeds}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    run_script(main, Config)
