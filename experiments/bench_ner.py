"""How fast NER training is beside the Hugging Face Trainer: both in turn, on the same cores, compile time excluded.

    python experiments/bench_ner.py --model path/to/MiniLM --dataset path/to/wnut17

Needs torch and accelerate: pip install -e '.[bench]'. Each side runs in a process of its own, one after the other, and
the ratio is taken round by round, so that it holds when the machine's speed drifts. Speeds are real tokens per second
of training (padding not counted, special tokens counted), after the first steps.
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
    """Times experiments/ner.py and peers/hf_ner.py in turn."""

    model: str
    """Folder of a BERT model."""
    dataset: str
    """Folder with train.conll and dev.conll."""
    rounds: int = 3
    """Number of times that each side runs."""
    steps: int = 100
    """Length of a run in optimizer steps."""
    untimed: int = 20
    """Optimizer steps at the beginning of a run that are not timed, on either side; must divide --steps."""
    batch_size: int = 16
    """Sentences per optimizer step."""
    group_by_length: bool = False
    """Let the Trainer put sentences of similar length in a batch."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """One run of one side."""

    real_tokens_per_s: float
    compile_s: float
    peak_gb: float


def ours(config: Config, folder: Path) -> Timing:
    """experiments/ner.py."""
    command = [
        HERE / "ner.py", "--model", config.model, "--dataset", config.dataset, "--batch-size", config.batch_size,
        "--steps", config.steps, "--log-every", config.untimed, "--eval-every", "0", "--checkpoint-every", "0",
        "--no-export", "--log-to", "none", "--out", folder,
    ]  # fmt: skip
    peak = run(command)
    return Timing(tokens_per_s(folder), json.loads((folder / "summary.json").read_text())["compile_s"], peak)


def trainer(config: Config, folder: Path) -> Timing:
    """The Hugging Face Trainer."""
    command = [
        HERE / "peers" / "hf_ner.py", "--model", config.model, "--dataset", config.dataset, "--seeds", "0",
        "--batch-size", config.batch_size, "--max-steps", config.steps, "--untimed-steps", config.untimed,
        "--json", f"{folder}.json",
        *(["--group-by-length"] if config.group_by_length else []),
    ]  # fmt: skip
    peak = run(command)
    found = json.loads(Path(f"{folder}.json").read_text())
    return Timing(found["seeds"][0]["real_tokens_per_s"], 0.0, peak)


def main(config: Config) -> None:
    """Runs both sides in turn and prints each round and the medians."""
    ratios: list[float] = []
    print("round  jaxllm tokens/s  Trainer tokens/s  ratio  compile s  peak GB (jaxllm, Trainer)")
    with tempfile.TemporaryDirectory() as temporary:
        for i in range(config.rounds):
            a = ours(config, Path(temporary) / f"ours{i}")
            b = trainer(config, Path(temporary) / f"trainer{i}")
            ratios.append(a.real_tokens_per_s / b.real_tokens_per_s)
            print(
                f"{i + 1:>5}  {a.real_tokens_per_s:>15,.0f}  {b.real_tokens_per_s:>16,.0f}  {ratios[-1]:>5.2f}"
                f"  {a.compile_s:>9.1f}  {a.peak_gb:.2f}, {b.peak_gb:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
