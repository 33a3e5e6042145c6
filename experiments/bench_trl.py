"""How fast SFT and preference tuning are beside TRL: both in turn, on the same cores, compile time excluded.

    python experiments/bench_trl.py --stage sft --dataset path/to/sft.json
    python experiments/bench_trl.py --stage dpo --dataset path/to/preference.json

Needs torch and trl: pip install -e '.[bench]'. Both sides tune the same random Llama (4 layers of width 256, vocabulary
4,096) on the same rows in float32, with the reference's log-probabilities computed before training: here by
experiments/sft.py or preference.py, whole, there by experiments/peers/trl_tuning.py. Each side runs in a process of its
own, one after the other, and the ratio is taken round by round, so that it holds when the machine's speed drifts.
Speeds are rows per second of training (pairs, for DPO), after the first steps. With --check the losses of the first
steps are compared instead. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxllm import hf
from jaxllm.data import sources, tokenizers
from jaxllm.data.chat import examples
from jaxllm.data.chat import rows as instructions
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.chat.templates import give_pad, give_template
from jaxllm.data.loader import lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import AnswerRows
from jaxllm.data.preference.pairs import Comparison, comparisons, encode
from jaxllm.data.report import Report
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from jaxllm.recipes import dialogues, pairs
from jaxllm.recipes.benchmark import run, tokens_per_s
from jaxllm.recipes.rows import Split
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl

HERE = Path(__file__).parent
SHAPE = Shape(vocab_size=4096, width=256, depth=4, heads=4, mlp_width=688, max_positions=512)
"""Of the model on both sides."""
SCRIPTS = {"sft": "sft.py", "dpo": "preference.py"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Times experiments/sft.py or preference.py, and peers/trl_tuning.py, in turn."""

    dataset: Path
    """File of instructions with answers for sft, of rows with chosen and rejected for dpo."""
    stage: Literal["sft", "dpo"] = "dpo"
    """What is trained: SFT or DPO."""
    rounds: int = 3
    """Number of times that each side runs."""
    steps: int = 80
    """Length of a run in optimizer steps."""
    untimed: int = 20
    """Optimizer steps at the beginning of a run that are not timed, on either side; must divide --steps."""
    batch_size: int = 16
    """Dialogues for sft, or pairs for dpo, per optimizer step."""
    max_length: int = 256
    """Length of a prompt and its answer together, in tokens, at most."""
    learning_rate: float = 1e-3
    """Learning rate, constant over the run."""
    check: bool = False
    """Compare the losses of the first five steps, without packing, so that both sides have the same rows in each."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What both sides start from: folders of the model and of ours.jsonl and theirs.jsonl, and tokens of a row."""

    model: Path
    data: Path
    tokens_per_row: float


def prepare(config: Config, folder: Path, shape: Shape = SHAPE) -> Prepared:
    """A model with its tokenizer, and the rows as plain text: TRL's in the order of our steps without packing."""
    rows = sources.load(config.dataset)["train"]
    if config.stage == "sft":
        asked = plain_dialogues(instructions.dialogues(rows, report=Report())[0])
        texts = [{"prompt": one.prompt, "completion": one.completion} for one in asked]
        spoken = dialogues.texts_of(Split(asked, []))
    else:
        found = plain_comparisons(comparisons(rows)[0])
        texts = [dict(zip(("prompt", "chosen", "rejected"), (one.prompt, *one.answers), strict=True)) for one in found]
        spoken = pairs.texts_of(Split(found, []))
    whole = len(texts) // config.batch_size * config.batch_size  # every step has as many
    tokenizer = tokenizers.bpe(spoken, shape.vocab_size - 1)
    give_template(tokenizer, "plain")
    give_pad(tokenizer)
    assert len(tokenizer) <= shape.vocab_size
    params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
    hf.export(folder / "model", params, shape, tokenizer, tokens={"pad_token_id": tokenizer.pad_token_id})

    options: Any = {"where": str, "report": Report()}
    if config.stage == "sft":
        sizes = lengths(examples.examples(asked[:whole], tokenizer, config.max_length, **options))
    else:
        sizes = AnswerRows(encode(found[:whole], tokenizer, config.max_length, **options)).lengths
    assert len(sizes) == whole, "a row was left out"
    plan = make_plan(sizes, batch_size=config.batch_size, multiple=jax.device_count(), pack=False, seed=0)
    order = [i for step in range(plan.steps) for row in plan.step(step) for i in row]
    for name, numbers in (("ours", range(whole)), ("theirs", order)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(texts[i]) + "\n" for i in numbers))
    return Prepared(folder / "model", folder, float(np.mean(sizes)))


def plain_dialogues(found: list[Dialogue]) -> list[Dialogue]:
    """As a prompt, a line of its own, and its completion."""
    return [
        Dialogue(prompt=said(one.messages[:-1]) + "\n", completion=said(one.messages[-1:])) if one.messages else one
        for one in found
    ]


def plain_comparisons(found: list[Comparison]) -> list[Comparison]:
    """As a prompt, a line of its own, and its answers."""
    return [
        dataclasses.replace(one, prompt=said(one.prompt) + "\n", answers=tuple(map(said, one.answers)))
        for one in found
    ]  # fmt: skip


def said(part: Any) -> str:
    """A text, or messages as lines."""
    return part if isinstance(part, str) else "\n".join(message["content"] for message in part)


def our_flags(config: Config, on: Prepared, out: Path, *more: object) -> list[str]:
    """Of experiments/sft.py or preference.py; its run folder is `out`."""
    own = ["--loss", "sigmoid"] if config.stage == "dpo" else ["--weight-decay", 0]
    flags = [
        "--model", on.model, "--dataset", on.data / "ours.jsonl", "--holdout", 0, "--max-length", config.max_length,
        "--batch-size", config.batch_size, "--learning-rate", config.learning_rate, "--schedule", "constant",
        "--warmup", 0, "--steps", config.steps, "--log-every", config.untimed, "--eval-every", 0,
        "--checkpoint-every", 0, "--samples", 0, "--no-export", "--log-to", "none", "--out", out, *own, *more,
    ]  # fmt: skip
    return [str(flag) for flag in flags]


def their_flags(config: Config, on: Prepared, results: Path) -> list[str]:
    """Of experiments/peers/trl_tuning.py."""
    flags = [
        "--stage", config.stage, "--model", on.model, "--data", on.data / "theirs.jsonl", "--json", results,
        "--steps", config.steps, "--untimed-steps", config.untimed, "--batch-size", config.batch_size,
        "--learning-rate", config.learning_rate, "--max-length", config.max_length,
    ]  # fmt: skip
    return [str(flag) for flag in flags]


def ours(config: Config, on: Prepared, out: Path, *more: object) -> float:
    """Runs our side; peak GB."""
    return run([HERE / SCRIPTS[config.stage], *our_flags(config, on, out, *more)])


def theirs(config: Config, on: Prepared, results: Path) -> tuple[dict, float]:
    """Runs TRL: its results, and peak GB."""
    peak = run([HERE / "peers" / "trl_tuning.py", *their_flags(config, on, results)])
    return json.loads(results.read_text()), peak


def compare_losses(config: Config, on: Prepared) -> float:
    """Prints the losses of five steps on both sides; their largest difference."""
    config = dataclasses.replace(config, steps=5, untimed=1)
    ours(config, on, on.data / "run", "--no-pack")
    a = [line["loss"] for line in read_jsonl(on.data / "run" / "metrics.jsonl") if "loss" in line]
    b = theirs(config, on, on.data / "theirs.json")[0]["losses"]
    print("step  jaxllm      TRL         difference")
    for step, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        print(f"{step:>4}  {x:.7f}  {y:.7f}  {x - y:+.1e}")
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def race(config: Config, on: Prepared) -> None:
    """Runs both sides in turn and prints each round and the medians."""
    ratios: list[float] = []
    print(f"{on.tokens_per_row:.1f} tokens a row")
    print("round  jaxllm rows/s  TRL rows/s  ratio  compile s  peak GB (jaxllm, TRL)")
    for i in range(config.rounds):
        out = on.data / f"run{i}"
        peak = ours(config, on, out)
        a = tokens_per_s(out) / on.tokens_per_row
        results, other = theirs(config, on, on.data / f"theirs{i}.json")
        ratios.append(a / results["rows_per_s"])
        compile_s = json.loads((out / "summary.json").read_text())["compile_s"]
        print(
            f"{i + 1:>5}  {a:>13.1f}  {results['rows_per_s']:>10.1f}  {ratios[-1]:>5.2f}  {compile_s:>9.1f}"
            f"  {peak:.2f}, {other:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


def main(config: Config) -> None:
    """Prepares, then compares."""
    with tempfile.TemporaryDirectory() as temporary:
        on = prepare(config, Path(temporary))
        if config.check:
            print(f"largest difference {compare_losses(config, on):.1e}")
        else:
            race(config, on)


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
