"""How fast preference tuning is beside TRL: both in turn, on the same cores, compile time excluded.

    python experiments/bench_trl.py --dataset path/to/preference.json

Needs torch and trl: pip install -e '.[bench]'. Both sides tune the same random Llama (4 layers of width 256, vocabulary
4,096) on the same pairs by DPO in float32, with the reference's log-probabilities computed before training: here by
experiments/preference.py, whole, there by experiments/peers/trl_dpo.py. Each side runs in a process of its own, one
after the other, and the ratio is taken round by round, so that it holds when the machine's speed drifts. Speeds are
pairs per second of training, after the first steps. With --check the losses of the first steps are compared instead.
Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import jax

from jaxllm import hf
from jaxllm.cli.bench import run, tokens_per_s
from jaxllm.cli.pairs import Split, texts_of
from jaxllm.cli.script import input_errors, parse
from jaxllm.data import sources, tokenizers
from jaxllm.data.answers import AnswerRows
from jaxllm.data.chat_templates import give_pad, give_template
from jaxllm.data.packing import make_plan
from jaxllm.data.pairs import comparisons, encode
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from jaxllm.train.log import read_jsonl

HERE = Path(__file__).parent
VOCABULARY = 4096


@dataclasses.dataclass(frozen=True)
class Config:
    """Times experiments/preference.py and peers/trl_dpo.py in turn."""

    dataset: Path
    """A file of rows with chosen and rejected."""
    rounds: int = 3
    """How often each side runs."""
    steps: int = 80
    """Optimizer steps a run."""
    untimed: int = 20
    """First steps that neither side's speed counts; divides the steps."""
    batch_size: int = 16
    """Pairs a step."""
    max_length: int = 256
    """Tokens of prompt and answer together."""
    learning_rate: float = 1e-3
    """Constant."""
    check: bool = False
    """Compare the losses of the first five steps, without packing, so that both have the same pairs in each."""


def prepare(config: Config, folder: Path) -> tuple[Path, Path]:
    """A model with its tokenizer, and the pairs as plain text in the order in which our steps take them unpacked."""
    found, places, report = comparisons(sources.load(config.dataset)["train"])
    tokenizer = tokenizers.bpe(texts_of(Split(found, places, report)), VOCABULARY - 1)
    give_template(tokenizer, "plain")
    give_pad(tokenizer)
    shape = Shape(vocab_size=VOCABULARY, width=256, depth=4, heads=4, mlp_width=688, max_positions=512)
    params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
    hf.export(folder / "model", params, shape, tokenizer, tokens={"pad_token_id": tokenizer.pad_token_id})

    def text(part: object) -> str:
        return part if isinstance(part, str) else "\n".join(message["content"] for message in part)  # type: ignore[attr-defined]

    plain = [
        dataclasses.replace(one, prompt=text(one.prompt) + "\n", answers=tuple(map(text, one.answers))) for one in found
    ]
    plain = plain[: len(plain) // config.batch_size * config.batch_size]  # every step has as many
    groups = encode(plain, tokenizer, config.max_length, where=places.__getitem__, report=report)
    assert len(groups) == len(plain), report.lines()
    plan = make_plan(AnswerRows(groups).lengths, batch_size=config.batch_size, pack=False, seed=0)
    order = [i for step in range(plan.steps) for row in plan.step(step) for i in row]
    for name, numbers in (("ours", range(len(plain))), ("theirs", order)):
        rows = [
            dict(zip(("chosen", "rejected"), plain[i].answers, strict=True), prompt=plain[i].prompt) for i in numbers
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "model", folder


def ours(config: Config, model: Path, data: Path, out: Path, *more: object) -> float:
    """experiments/preference.py: its run folder is `out`; peak GB."""
    return run([
        HERE / "preference.py", "--model", model, "--dataset", data / "ours.jsonl", "--holdout", 0, "--loss", "sigmoid",
        "--max-length", config.max_length, "--batch-size", config.batch_size, "--learning-rate", config.learning_rate,
        "--schedule", "constant", "--warmup", 0, "--steps", config.steps, "--log-every", config.untimed,
        "--eval-every", 0, "--checkpoint-every", 0, "--samples", 0, "--no-export", "--log-to", "none", "--out", out,
        *more,
    ])  # fmt: skip


def theirs(config: Config, model: Path, data: Path, results: Path) -> tuple[dict, float]:
    """TRL: its results, and peak GB."""
    peak = run([
        HERE / "peers" / "trl_dpo.py", "--model", model, "--data", data / "theirs.jsonl", "--json", results,
        "--steps", config.steps, "--untimed-steps", config.untimed, "--batch-size", config.batch_size,
        "--learning-rate", config.learning_rate, "--max-length", config.max_length,
    ])  # fmt: skip
    return json.loads(results.read_text()), peak


def compare_losses(config: Config, model: Path, data: Path) -> float:
    """Prints the losses of five steps on both sides; their largest difference."""
    config = dataclasses.replace(config, steps=5, untimed=1)
    ours(config, model, data, data / "run", "--no-pack")
    a = [line["loss"] for line in read_jsonl(data / "run" / "metrics.jsonl") if "loss" in line]
    b = theirs(config, model, data, data / "theirs.json")[0]["losses"]
    print("step  jaxllm      TRL         difference")
    for step, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        print(f"{step:>4}  {x:.7f}  {y:.7f}  {x - y:+.1e}")
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def race(config: Config, model: Path, data: Path) -> None:
    """Runs both sides in turn and prints each round and the medians."""
    ratios: list[float] = []
    print("round  jaxllm pairs/s  TRL pairs/s  ratio  compile s  peak GB (jaxllm, TRL)")
    for i in range(config.rounds):
        out = data / f"run{i}"
        peak = ours(config, model, data, out)
        summary = json.loads((out / "summary.json").read_text())
        a = tokens_per_s(out) / summary["tokens_per_pair"]
        results, other = theirs(config, model, data, data / f"theirs{i}.json")
        ratios.append(a / results["pairs_per_s"])
        print(
            f"{i + 1:>5}  {a:>14.1f}  {results['pairs_per_s']:>11.1f}  {ratios[-1]:>5.2f}"
            f"  {summary['compile_s']:>9.1f}  {peak:.2f}, {other:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


def main(config: Config) -> None:
    """Prepares, then compares."""
    with tempfile.TemporaryDirectory() as temporary:
        model, data = prepare(config, Path(temporary))
        if config.check:
            print(f"largest difference {compare_losses(config, model, data):.1e}")
        else:
            race(config, model, data)


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
