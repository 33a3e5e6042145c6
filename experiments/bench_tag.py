"""How fast `python -m jaxllm tag` is beside transformers' pipeline: both in turn, on the same cores and sentences.

    python experiments/bench_tag.py --model RUN/hf --dataset WNUT17

Needs torch: pip install -e '.[bench]'. Each side is a command of its own that loads the model, tags a file and writes
JSON lines; here that includes compiling, there the pipeline has batches of 32. The entities must be the same, scores to
1e-4. Ratios are taken round by round, by the clock and by the processor time of the whole command, which other work on
the machine distorts less. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.data.tagging.load import load_tagged
from jaxllm.recipes.script import input_errors, parse
from jaxllm.types import InputError

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Config:
    """Times `python -m jaxllm tag` and peers/hf_tag.py in turn."""

    model: Path
    """Folder of a token classifier, as a run's hf/."""
    dataset: str
    """Tagged words, whose sentences of the train split are tagged, again from the first where they do not suffice."""
    sentences: int = 10_000
    """Number of sentences."""
    rounds: int = 2
    """Number of times that each side runs."""
    aggregation: str = "first"
    """The pipeline's aggregation_strategy."""
    batch_size: int = 32
    """Sentences of a batch of the pipeline."""
    peer_python: Path = Path(sys.executable)
    """Interpreter that runs the pipeline, of an environment with torch, which our side does not need."""


def timed(python: Path | str, command: Sequence[object]) -> tuple[float, float, float]:
    """Seconds by the clock and of processor time, and the peak memory in GB, of a command. Raises InputError."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as heard:
        child = subprocess.Popen([str(python), *map(str, command)], stdout=heard, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            heard.seek(0)
            raise InputError(f"{command[0]} failed: {heard.read()[-300:]}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def check_same(ours: Path, theirs: Path) -> int:
    """The number of entities, of which all are the same on both sides. Raises InputError at the first that is not."""
    count = 0
    for number, lines in enumerate(zip(ours.open(encoding="utf-8"), theirs.open(encoding="utf-8"), strict=True), 1):
        found: list[list[dict[str, Any]]] = [json.loads(line)["entities"] for line in lines]
        scores = [[entity.pop("score") for entity in one] for one in found]
        if found[0] != found[1] or any(abs(a - b) > 1e-4 for a, b in zip(*scores, strict=True)):
            raise InputError(f"sentence {number}: {found[0]} with {scores[0]} here, {found[1]} with {scores[1]} there")
        count += len(found[0])
    return count


def main(config: Config) -> None:
    """Runs both sides in turn and prints each round and the medians."""
    rows = itertools.islice(itertools.cycle(load_tagged(config.dataset)["train"]), config.sentences)
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        texts, ours, theirs = (Path(temporary) / name for name in ("sentences.txt", "ours.jsonl", "theirs.jsonl"))
        texts.write_text("".join(" ".join(row["tokens"]) + "\n" for row in rows), encoding="utf-8")
        print("round  seconds: jaxllm, pipeline, ratio  processor seconds: the same  peak GB", flush=True)
        for i in range(config.rounds):
            a = timed(sys.executable, [
                "-m", "jaxllm", "tag", config.model, "--input", texts, "--output", ours,
                "--aggregation", config.aggregation,
            ])  # fmt: skip
            b = timed(config.peer_python, [
                HERE / "peers" / "hf_tag.py", "--model", config.model, "--texts", texts, "--output", theirs,
                "--aggregation", config.aggregation, "--batch-size", config.batch_size,
            ])  # fmt: skip
            count = check_same(ours, theirs)
            ratios.append((b[0] / a[0], b[1] / a[1]))
            print(
                f"{i + 1:>5}  {a[0]:.1f} {b[0]:.1f} {ratios[-1][0]:.2f}  {a[1]:.1f} {b[1]:.1f} {ratios[-1][1]:.2f}"
                f"  {a[2]:.2f} {b[2]:.2f}; {config.sentences / a[0]:,.0f} and {config.sentences / b[0]:,.0f} sentences"
                f" a second, {count:,} entities, the same",
                flush=True,
            )
    clock, processor = (statistics.median(x) for x in zip(*ratios, strict=True))
    print(f"median ratio {clock:.2f} by the clock, {processor:.2f} by processor time")


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
