"""How fast pretraining is beside plain eager PyTorch: both in turn, on the same cores, compile time excluded.

    python experiments/bench_pretrain.py --dataset shakespeare.txt
    python experiments/bench_pretrain.py --dataset shakespeare.txt --large

Needs torch: pip install -e '.[bench]'. The model is GPT-2 on characters in two sizes, and both sides train the same
one: here by experiments/pretrain.py, whole, there by experiments/peers/torch_gpt.py. Each side runs in a process of
its own, one after the other, and the ratio is taken round by round, so that it holds when the machine's speed drifts.
Speeds are training tokens per second after the first steps.
Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

from jaxllm.recipes.benchmark import run, tokens_per_s
from jaxllm.recipes.script import input_errors, parse

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Config:
    """Times experiments/pretrain.py and peers/torch_gpt.py in turn."""

    dataset: Path
    """Text file to train on, for example Shakespeare's works."""
    large: bool = False
    """Train 6 layers of width 384 on 8 rows of 256 tokens, instead of 4 of width 128 on 12 rows of 64."""
    rounds: int = 3
    """Number of times that each side runs."""
    steps: int = 0
    """Length of a run in optimizer steps; 0 for 600, or 60 with --large."""
    untimed: int = 0
    """Optimizer steps at the beginning of each run that are not timed; must divide --steps; 0 for a sixth of them."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and what it is fed."""

    depth: int
    heads: int
    width: int
    length: int
    batch_size: int
    model: str


SMALL = Size(4, 4, 128, 64, 12, "gpt2-char.json")
LARGE = Size(6, 6, 384, 256, 8, "gpt2-char-large.json")


def ours(config: Config, size: Size, folder: Path) -> tuple[float, float, float]:
    """experiments/pretrain.py: tokens per second, seconds of compiling, peak GB."""
    command = [
        HERE / "pretrain.py", "--model", HERE / "models" / size.model, "--tokenizer", "char", "--concatenate",
        "--dataset", config.dataset, "--max-length", size.length, "--batch-size", size.batch_size,
        "--learning-rate", 1e-3, "--beta2", 0.99, "--steps", config.steps,
        "--log-every", config.untimed, "--eval-every", 0, "--checkpoint-every", 0, "--holdout", 0,
        "--sample-tokens", 0, "--no-export", "--log-to", "none", "--out", folder,
    ]  # fmt: skip
    peak = run(command)
    return tokens_per_s(folder), json.loads((folder / "summary.json").read_text())["compile_s"], peak


def torch(config: Config, size: Size, results: Path) -> tuple[float, float]:
    """Eager PyTorch: tokens per second, peak GB."""
    command = [
        HERE / "peers" / "torch_gpt.py", "--data", config.dataset, "--depth", size.depth, "--heads", size.heads,
        "--width", size.width, "--length", size.length, "--batch-size", size.batch_size, "--steps", config.steps,
        "--untimed-steps", config.untimed, "--no-evaluate", "--json", results,
    ]  # fmt: skip
    peak = run(command)
    return json.loads(results.read_text())["mean"]["tokens_per_s"], peak


def main(config: Config) -> None:
    """Runs both sides in turn and prints each round and the medians."""
    size = LARGE if config.large else SMALL
    steps = config.steps or (60 if config.large else 600)
    config = dataclasses.replace(config, steps=steps, untimed=config.untimed or steps // 6)
    ratios: list[float] = []
    print("round  jaxllm tokens/s  torch tokens/s  ratio  compile s  peak GB (jaxllm, torch)")
    with tempfile.TemporaryDirectory() as temporary:
        for i in range(config.rounds):
            speed, compile_s, peak = ours(config, size, Path(temporary) / f"ours{i}")
            other, other_peak = torch(config, size, Path(temporary) / f"torch{i}.json")
            ratios.append(speed / other)
            print(
                f"{i + 1:>5}  {speed:>15,.0f}  {other:>14,.0f}  {ratios[-1]:>5.2f}  {compile_s:>9.1f}"
                f"  {peak:.2f}, {other_peak:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
