"""How fast and how large training is, here and elsewhere: one command for all stages, sizes and devices.

    python experiments/benchmark.py --stage pretrain --size large
    python experiments/benchmark.py --stage ner --dataset path/to/wnut17 --model path/to/MiniLM --against hf
    python experiments/benchmark.py --stage all --against none --json speed.json
    python experiments/benchmark.py --stage dpo --dataset path/to/preference.json --check

Each side runs whole in a process of its own: here the script of the stage, there a file of peers/. They take turns,
round by round, and the ratio is taken within rounds, so that it holds when the machine's speed drifts. A table says of
each side: real tokens a second (padding not counted, a prompt that two answers share counted once) and the time of a
step, after the first steps; the time from the command to the end of the first step, of which compiling; the most
memory; and the model's FLOP/s by formula, beside those of the library's best large matrix product in the same round.
Ratios hold for the machine that is named, not in general. Peers need torch and more: pip install -e '.[bench]'.

A stage is one entry of STAGES: a function in workloads/ that writes what both sides read, and names their commands.
Expected: experiments/README.md.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from jaxllm.recipes.benchmark import Measured, as_json, read_peer, read_run, run, table_of
from jaxllm.recipes.checks import COUNT, NOT_NEGATIVE, check_numbers
from jaxllm.recipes.machine import describe_machine, missing, versions, versions_at
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.folder import write_json
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError, check_one_of, nearest
from workloads import classifying, generation, masking, pretraining, tagging, tuning
from workloads.work import HERE, OUT, Asked, Peer, Prepare, Work

STAGES: dict[str, Prepare] = {
    "pretrain": pretraining.prepare,
    "sft": tuning.sft,
    "dpo": tuning.dpo,
    "reward": tuning.reward,
    "ner": tagging.prepare,
    "classify": classifying.prepare,
    "mlm": masking.prepare,
    "generate": generation.prepare,
}
"""What each stage runs on both sides."""

LIBRARIES = ("torch", "hf", "trl", "none")
OURS = "jaxllm"


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures training and generation, beside the same work elsewhere."""

    stage: str = "all"
    """What to measure: pretrain, sft, dpo, reward, ner, classify, mlm, generate, or all of them."""
    size: str = "small"
    """Size of the model and its rows: small or large, and for generate tiny, as online.py samples by default."""
    against: tuple[str, ...] = ("torch", "hf", "trl")
    """Libraries to measure beside: any of torch, hf and trl, or none; those of a stage that are installed."""
    rounds: int = 3
    """Number of times that each side runs."""
    dataset: tuple[str, ...] = ()
    """Data of the stage, or STAGE=PATH for several; by default what comes with the package: a text for pretrain, a
    folder with train.conll and dev.conll for ner, a .jsonl of text and label for classify, of text for mlm, a
    file of instructions for sft, of pairs for dpo and reward."""
    model: tuple[str, ...] = ()
    """Model of the stage, or STAGE=PATH for several, in place of that of --size: a preset or .json for pretrain, else a
    folder in Hugging Face's format."""
    dtype: str = "float32"
    """Type that models compute in: float32 or bfloat16."""
    batch_size: int = 0
    """Rows, sentences, dialogues or pairs per step; 0 for the stage's own."""
    max_length: int = 0
    """Length of a row in tokens (for generate, of an answer); 0 for the stage's own."""
    steps: int = 0
    """Length of a run in optimizer steps; 0 for the stage's own."""
    untimed: int = 0
    """Optimizer steps at the beginning of a run that are not timed; must divide --steps; 0 for a sixth of them."""
    json: Path | None = None
    """File to write everything measured to, after each round."""
    peer_python: Path | None = None
    """Interpreter that runs the peers, of an environment with their packages. By default this one; but where torch is
    installed, our side loads it too, for transformers does, and holds more memory."""
    check: bool = False
    """Compare the losses of the first five steps with TRL's instead (sft and dpo), without packing."""


def asked_of(config: Config, stage: str) -> Asked:
    """What the flags ask of one stage. Raises InputError."""
    return Asked(
        config.size, _for_stage(config, "dataset", stage), _for_stage(config, "model", stage), config.dtype,
        config.batch_size, config.max_length, config.steps, config.untimed,
    )  # fmt: skip


def _for_stage(config: Config, name: str, stage: str) -> str:
    found = ""
    for text in getattr(config, name):
        to, equals, value = text.partition("=")
        if not equals and config.stage == "all":
            raise InputError(f"--{name} {text}: with --stage all give STAGE=PATH")
        if equals and to not in STAGES:
            raise InputError(f"--{name} {text}: {nearest(to, STAGES)}")
        if not equals or to == stage:
            found = value if equals else text
    return found


def prepare(stage: str, asked: Asked, folder: Path) -> Work:
    """The work of a stage, prepared on the CPU in a process of its own, so that this one holds no device."""
    spawn = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with mock.patch.dict(os.environ, JAX_PLATFORMS="cpu"), spawn as pool:
        return pool.submit(STAGES[stage], asked, folder).result()


def peers_of(config: Config, work: Work) -> tuple[dict[str, Peer], list[str]]:
    """The peers to run, and lines on those that cannot be."""
    chosen, lines, installed = dict[str, Peer](), [], versions_of_peers(config)
    for name, peer in work.peers.items():
        if peer.library not in config.against:
            continue
        lacks = missing(peer.needs, installed) + ([peer.tool] if peer.tool and not shutil.which(peer.tool) else [])
        if lacks:
            lines.append(f"{name} is left out: no {' and no '.join(lacks)} here")
        else:
            chosen[name] = peer
    return chosen, lines


def measure_ours(work: Work, folder: Path) -> Measured:
    """Runs our side."""
    run([word.replace(OUT, str(folder)) for word in work.ours])
    if (path := folder / "measured.json").exists():
        return read_peer(path, None, None)
    return read_run(folder)


def versions_of_peers(config: Config) -> dict[str, str]:
    """Of the packages where the peers run. Raises InputError."""
    return versions_at(config.peer_python) if config.peer_python else versions()


def measure_peer(work: Work, peer: Peer, path: Path, ours: Measured, python: Path | None) -> Measured:
    """Runs a peer."""
    run([word.replace(OUT, str(path)) for word in peer.command], python)
    per_token = None if ours.flops_per_s is None else ours.flops_per_s / ours.tokens_per_s
    return read_peer(path, work.tokens_per_example, per_token)


def best_matmul(dtype: str, torch: bool, folder: Path, python: Path | None) -> tuple[dict[str, float], dict[str, Any]]:
    """FLOP/s of the best large matrix product of each library over all devices, now; and the devices."""
    files = {"jax": HERE / "matmul.py"} | ({"torch": HERE / "peers" / "torch_matmul.py"} if torch else {})
    found = {}
    for library, script in files.items():
        path = folder / f"matmul-{library}.json"
        run([script, "--dtype", dtype, "--json", path], python if library == "torch" else None)
        found[library] = json.loads(path.read_text())
    here = found["jax"]
    best = {library: max(one["flops_per_s"].values()) for library, one in found.items()}
    best["jax"] *= here["devices"] if here["platform"] != "cpu" else 1
    return best, {name: here[name] for name in ("platform", "device", "devices")}


def race(config: Config, stage: str, out: Console, report: dict[str, Any]) -> None:
    """Measures a stage and prints its table; `report` gets an entry, and is written after each round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = prepare(stage, asked_of(config, stage), folder)
        peers, lines = peers_of(config, work)
        for line in lines:
            out.print(line)
        entry: dict[str, Any] = {
            "stage": stage, "size": config.size, "dtype": config.dtype, "work": work.description, "rounds": [],
            "best_matmul": [], "command": list(work.ours), "left_out": lines,
        }  # fmt: skip
        report["stages"].append(entry)
        rounds: list[dict[str, Measured]] = []
        for i in range(config.rounds):
            best, report["device"] = best_matmul(config.dtype, bool(peers), folder, config.peer_python)
            one = {OURS: measure_ours(work, folder / f"ours{i}")}
            for number, (name, peer) in enumerate(peers.items()):
                one[name] = measure_peer(work, peer, folder / f"peer{number}-{i}.json", one[OURS], config.peer_python)
            rounds.append(one)
            entry["rounds"], entry["best_matmul"] = as_json(rounds), [*entry["best_matmul"], best]
            if config.json is not None:
                write_json(config.json, report)
            speeds = ", ".join(f"{name} {m.tokens_per_s:,.0f}" for name, m in one.items())
            out.print(f"[dim]round {i + 1} of {config.rounds}: {speeds} real tokens/s[/dim]")
        matmuls = ", ".join(f"{name} {max(x[name] for x in entry['best_matmul']) / 1e9:,.0f}" for name in best)
        out.print(table_of(f"{stage}, {config.size}, {config.dtype}: {work.description}\n"
                           f"on {report['device']['device']}, best matmul in GFLOP/s: {matmuls}",
                           rounds, entry["best_matmul"], OURS))  # fmt: skip


def compare_losses(config: Config, stage: str, out: Console) -> float:
    """Prints the losses of five steps on both sides; their largest difference."""
    config = dataclasses.replace(config, steps=5, untimed=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = prepare(stage, asked_of(config, stage), folder)
        peers, lines = peers_of(config, work)
        if not peers:
            raise InputError("--check compares with TRL: " + (lines or ["--against must name trl"])[0])
        run([*(word.replace(OUT, str(folder / "run")) for word in work.ours), "--no-pack"])
        run([word.replace(OUT, str(folder / "peer.json")) for word in peers["TRL"].command], config.peer_python)
        a = [line["loss"] for line in read_jsonl(folder / "run" / "metrics.jsonl") if "loss" in line]
        b = json.loads((folder / "peer.json").read_text())["losses"]
    out.print("step  jaxllm      TRL         difference")
    for step, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        out.print(f"{step:>4}  {x:.7f}  {y:.7f}  {x - y:+.1e}")
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def check(config: Config) -> Sequence[str]:
    """The stages to measure. Raises InputError for flags that cannot be."""
    check_one_of("--stage", config.stage, [*STAGES, "all"])
    for library in config.against:
        check_one_of("--against", library, LIBRARIES)
    check_one_of("--dtype", config.dtype, ["float32", "bfloat16"])
    check_one_of("--size", config.size, ["tiny", "small", "large"])
    check_numbers(config, COUNT, "rounds")
    check_numbers(config, NOT_NEGATIVE, "batch_size", "max_length", "steps", "untimed")
    if config.check and config.stage not in ("sft", "dpo"):
        raise InputError(f"--check --stage {config.stage}: losses are compared for sft and dpo alone")
    stages = list(STAGES) if config.stage == "all" else [config.stage]
    for stage in stages:
        asked_of(config, stage)
    return stages


def main(config: Config) -> None:
    """Measures each stage."""
    stages, out = check(config), Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if config.check:
        out.print(f"largest difference {compare_losses(config, config.stage, out):.1e}")
        return
    machine = describe_machine() | ({"peer_versions": versions_of_peers(config)} if config.peer_python else {})
    cpu: Mapping[str, Any] = machine["cpu"]
    out.print(f"{cpu['model']} ({cpu['family']}), {cpu['cores']} cores, {' '.join(cpu['instructions'])}; "
              f"load {machine['load']:.1f}", markup=False)  # fmt: skip
    for whose in ("versions", "peer_versions"):
        out.print(", ".join(f"{name} {version}" for name, version in machine.get(whose, {}).items()))
    report: dict[str, Any] = {
        "machine": machine,
        "config": {name: str(x) if isinstance(x, Path) else x for name, x in dataclasses.asdict(config).items()},
        "stages": [],
    }
    for stage in stages:
        race(config, stage, out, report)
    if config.json is not None:
        out.print(f"written to {config.json}")


if __name__ == "__main__":
    with input_errors():
        main(parse(Config, sys.argv[1:]))
