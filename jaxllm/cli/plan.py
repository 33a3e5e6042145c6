r"""`python -m jaxllm plan SCRIPT ... --topology v5e:16x16`: what a script's step would cost on other hardware.

    python -m jaxllm plan experiments/pretrain.py --topology v5e:16x16 --mesh fsdp=64,tensor=4 --model llama-8b \
        --batch-size 256 --max-length 4096 --dtype bfloat16 --remat full
    python -m jaxllm plan experiments/preference.py --topology h100:1x1x8 --mesh fsdp=8 --model llama-1b --remat full

The script runs with its own flags up to the step that `fit` compiles, from shapes alone: no weights and no data are
read. The hardware's own compiler compiles the step, whose program tells memory, FLOPs and communication.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

from jaxllm import planning
from jaxllm.distributed.topology import parse_mesh
from jaxllm.models.remat import REMAT
from jaxllm.plan import measure as measuring
from jaxllm.plan import search as searching
from jaxllm.plan.report import Report, make_report
from jaxllm.plan.step import compile_step, rows_of
from jaxllm.plan.target import Target, devices_of, parse_target, prepare
from jaxllm.plan.text import summary_of, text_of
from jaxllm.recipes.checks import COUNT, FINITE, check_numbers
from jaxllm.recipes.script import parse
from jaxllm.run.time_limit import TooLong, time_limit
from jaxllm.train.setup import Program
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Compiles the step of SCRIPT, given with its flags, for hardware that is not here, and says what it would cost.

    Flags of this command stand among the script's.
    """

    topology: str = ""
    """Hardware: v5e:16x16 (v4, v5e, v5p, v6e, v7x, and the sides of a slice), v5e:16x16*2 (two slices), h100:1x4x8
    (a100, h100, h200, b200, and slices x hosts x GPUs), or cpu:8 (fake CPU devices, a stand-in)."""
    json: bool = False
    """Print one JSON object and nothing else."""
    tokens: float = 0.0
    """Length of a whole training in tokens, such as 1e12, for its chip-hours; 0 for none."""
    measure: bool = False
    """Also make ten steps on this machine's devices, and print prediction and measurement side by side."""
    search: bool = False
    """Try meshes, remat policies, microbatches and attention backends at this batch, and compare the best."""
    finalists: int = 4
    """Number of configurations that --search compiles, after it has estimated all by formula."""
    buffers: int = 10
    """Number of the largest buffers to list."""
    within: float = 600.0
    """Seconds after which a script that has not called `fit` is stopped; 0 for never."""
    summary: bool = False
    """Print memory, time and what bounds it, in one line."""
    command: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The script and its flags."""


def read(argv: Sequence[str]) -> Config:
    """The flags, and the process set up to compile for the topology. Raises InputError."""
    config = flags(argv)
    prepare(parse_target(config.topology))
    return config


def flags(argv: Sequence[str]) -> Config:
    """Takes this command's flags out of the script's. Raises InputError."""
    own, command = separate(argv)
    config = parse(Config, own, prog="python -m jaxllm plan")
    if not command or command[0].startswith("--"):
        raise InputError("name the script to plan, before its flags, as in plan experiments/pretrain.py (see --help)")
    if not os.path.isfile(command[0]):
        raise InputError(f"{command[0]}: there is no such script")
    if not config.topology:
        raise InputError(
            "--topology is missing: name the hardware, such as v5e:16x16, h100:1x1x8 or cpu:8 (see --help)"
        )
    check_numbers(config, FINITE, "tokens", "within")
    check_numbers(config, COUNT, "finalists", "buffers")
    parse_target(config.topology)
    return dataclasses.replace(config, command=tuple(command))


def separate(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(this command's flags, the script and its flags)."""
    flags = {
        f"--{field.name.replace('_', '-')}": field for field in dataclasses.fields(Config) if field.name != "command"
    }
    own: list[str] = []
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name = word.partition("=")[0].replace("_", "-")
        if name in flags:
            own.append(word)
            if "=" not in word and not isinstance(flags[name].default, bool) and words:
                own.append(words.pop(0))
        elif word in ("--help", "-h") and not rest:
            own.append(word)
        else:
            rest.append(word)
    return own, rest


def main(config: Config) -> None:
    """Plans and prints."""
    target = parse_target(config.topology)
    with contextlib.ExitStack() as stack:
        planned = stack.enter_context(_planning(target))
        planned.within = config.within
        if config.search:
            found, tried = _search(config, target, planned)
            values: Any = {"topology": config.topology, "tried": tried, "candidates": searching.json_of(found)}
            text = searching.text_of(found, tried)
        else:
            report = plan(config.command, target, planned, config.buffers)
            values = report.json()
            text = summary_of(report) if config.summary else text_of(report, config.tokens)
            if config.measure:
                measured = measuring.measure(report)
                values["measured"] = measuring.json_of(report, measured)
                text += "\n" + measuring.text_of(report, measured)
    print(json.dumps(values) if config.json else text)


def plan(
    command: Sequence[str], target: Target, planned: planning.Planning, buffers: int = 10, notes: Sequence[str] = ()
) -> Report:
    """The report of a script's step. Raises InputError."""
    program = take(command, planned, planned.within)
    step = compile_step(program, target, rows_of(program, planned))
    return make_report(step, [*notes, *_notes(planned, target)], buffers)


@contextlib.contextmanager
def _planning(target: Target) -> Iterator[planning.Planning]:
    """Makes a plan current, with a temporary folder for all that the script would keep."""
    with tempfile.TemporaryDirectory(prefix="jaxllm-plan-") as folder:
        planned = planning.Planning(devices_of(target), target.platform, Path(folder))
        cache = mock.patch.dict(os.environ, XDG_CACHE_HOME=str(Path(folder) / "cache"))
        with planning.planned(planned), cache:
            yield planned


def _search(config: Config, target: Target, planned: planning.Planning) -> tuple[list[searching.Found], int]:
    """The finalists, compiled, and how many configurations were estimated."""
    devices = len(planned.devices)
    program = _any_program(config.command, planned, devices)
    batch = rows_of(program, planned)
    rows, length = getattr(batch, "batch", batch).tokens_BT.shape
    flops, tokens = program.flops.of(batch), rows * length
    estimates = []
    for one in searching.candidates(target, devices, program, rows, length, [r for r in REMAT if r != "offload"]):
        sizes = parse_mesh(one.mesh, devices).sizes
        if (found := searching.estimate(one, sizes, program, target, flops, tokens)) is not None:
            estimates.append(found)
    if not estimates:
        raise InputError(
            f"--search: no mesh of {devices} devices divides the model and {rows} rows; change --batch-size"
        )

    def compile_one(one: searching.Candidate) -> Report:
        planned.overrides = {"backend": one.backend}
        return plan([*config.command, *one.flags], target, planned, config.buffers)

    return searching.search(estimates, target, target.devices / devices, config.finalists, compile_one), len(estimates)


def _any_program(command: Sequence[str], planned: planning.Planning, devices: int) -> Program:
    """The script's step on the first simple mesh that divides it."""
    for size in sorted({n for n in range(1, devices + 1) if devices % n == 0}, reverse=True):
        heard = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(heard):
            return take([*command, "--mesh", f"fsdp={size},tensor={devices // size}"], planned,
                        planned.within)  # fmt: skip
    raise InputError(heard.getvalue().strip().removeprefix("error: ") or "the script stopped before its step")


def take(command: Sequence[str], planned: planning.Planning, seconds: float = 0.0) -> Program:
    """Runs a script up to the step that its call of `fit` would compile.

    seconds: what it may take until then, 0 for as long as it likes. Raises InputError where it never calls it: at once
    where it reads nothing of jaxllm, and else when it makes parameters or steps of its own, ends, or takes too long.
    """
    script, *flags = command
    why = "never called jaxllm.train.fit.fit, whose step a plan is made of"
    if not _can_call_fit(Path(script)):
        raise InputError(f"{script} imports nothing of jaxllm, so it {why}")
    argv = mock.patch.object(sys, "argv", [script, *flags])
    path = mock.patch.object(sys, "path", [str(Path(script).resolve().parent), *sys.path])
    planned.script = script
    try:
        with argv, path, contextlib.redirect_stdout(io.StringIO()), time_limit(seconds):
            runpy.run_path(script, run_name="__main__")
    except planning.Planned as stop:
        return stop.program
    except TooLong:
        raise InputError(f"{script} {why}, within {seconds:g} s; --within gives it longer") from None
    finally:
        planned.script = ""
    raise InputError(f"{script} ended and {why}")


def _can_call_fit(script: Path) -> bool:
    """Whether a script, or a file beside it, speaks of jaxllm, or imports in a way that its text does not tell."""
    files = [script, *script.parent.glob("*.py"), *script.parent.glob("*/*.py")]
    text = "\n".join(file.read_text(errors="replace") for file in files if file == script or _named(file, script))
    return bool(re.search(r"jaxllm|importlib|__import__|runpy|exec\(", text))


def _named(file: Path, script: Path) -> bool:
    """Whether the script names this file's module, or its folder."""
    words = set(re.findall(r"\w+", script.read_text(errors="replace")))
    return file.stem in words or file.parent.name in words


def _notes(planned: planning.Planning, target: Target) -> list[str]:
    found = []
    config: Any = planned.config
    if hasattr(config, "batch_size"):
        found.append(
            f"rows follow from --max-length {config.max_length} and --batch-size {config.batch_size}, with every "
            "example as long as that; data that is shorter packs into fewer rows"
        )
    if target.platform == "cpu":
        found.append(
            "CPU devices stand in: another compiler, other fusions and no kernels, so no measure of a TPU or GPU"
        )
    if target.platform == "gpu":
        found.append(
            "nothing is autotuned, and no kernel was run: matrix products are Triton's where cuBLAS may be faster"
        )
    return found
