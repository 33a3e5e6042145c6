"""What each way to save memory saves in a compiled step for a TPU or a GPU: one table, with no such device at hand.

The compiler of that hardware plans the memory of the step with AdamW, the state donated; its products are counted with
the trips of their loops, and kernels by formula (jaxllm/plan). Nothing is run.

    python experiments/bench_compiled.py
    python experiments/bench_compiled.py --topology h100:1x1x8 --mesh fsdp=8

Figures are in experiments/README.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax

from jaxllm.data.packing import Example, collate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.distributed import mesh as meshes
from jaxllm.losses import resolve, tokens
from jaxllm.models import decoder, lora
from jaxllm.models.heads import describe_model
from jaxllm.models.remat import REMAT
from jaxllm.params import ModelSpec
from jaxllm.plan.hlo import parse
from jaxllm.plan.kernels import kernel_flops
from jaxllm.plan.memory import memory_of
from jaxllm.plan.program import Cost
from jaxllm.plan.step import shapes_of
from jaxllm.plan.target import compiling, devices_of, parse_target, prepare
from jaxllm.planning import Planning, planned
from jaxllm.recipes.script import run as run_script
from jaxllm.train.setup import prepare as prepare_step
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Compiles a step in each of two or more ways, and prints its memory and FLOPs on one device."""

    topology: str = "v5e:2x2"
    """Hardware: v5e:2x2, h100:1x1x8 (slices x hosts x GPUs), cpu:8 and others, as for `python -m jaxllm plan`."""
    mesh: str = "fsdp=4"
    """Devices per axis."""
    model: str = "llama-1b"
    """A preset."""
    rows: int = 8
    """Rows of a batch; for preference, pairs."""
    length: int = 2048
    """Tokens of a row. A prompt has half of them, and each of its two answers a quarter."""
    dtype: str = "bfloat16"
    """Type that is computed in."""
    what: tuple[str, ...] = ()
    """Of attention, head, prompts, lora and remat; by default all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A step to compile."""

    build: Callable[[], ModelSpec]
    loss: str
    batch: Any
    at_once: bool = False
    """All logits at once."""


def cases(config: Config) -> dict[str, list[tuple[str, Case]]]:
    """The rows of the table, by what they compare: how each does it."""
    if config.model not in decoder.PRESETS:
        raise InputError(f"--model {config.model}: give one of {', '.join(decoder.PRESETS)}")
    shape = dataclasses.replace(decoder.PRESETS[config.model], dtype=config.dtype, unroll=1)

    def model(remat: str = "full", backend: str = "auto") -> Callable[[], ModelSpec]:
        return lambda: describe_model(dataclasses.replace(shape, remat=remat, backend=backend))

    text, plain = packed(config), model(backend="xla")
    step = lambda build, at_once=False: Case(build, "cross_entropy", text, at_once)  # noqa: E731
    pair = lambda layout: Case(plain, "dpo", pairs(config, layout))  # noqa: E731
    full = step(model())
    return {
        "attention": [("a kernel", full), ("plain", step(plain))],
        "head": [("in chunks", full), ("all logits", step(model(), at_once=True))],
        "prompts": [("shared", pair(Layout())), ("twice", pair(Layout(share=False)))],
        "lora": [("rank 16", step(lambda: lora.add(model()(), lora.Config(16)))), ("full", full)],
        "remat": [(name, full if name == "full" else step(model(name))) for name in REMAT],
    }


def packed(config: Config) -> Any:
    """Rows of one document each."""
    ones = np.ones(config.length, np.int32)
    row = [Example(ones, ones, np.ones(config.length, np.float32))]
    return collate([row] * config.rows, config.length, config.rows)


def pairs(config: Config, layout: Layout) -> Any:
    """One pair a row: half of the tokens are the prompt's, a quarter each answer's."""
    each = config.length // 4
    answers = tuple(Answer(np.ones(each, np.int32), np.ones(each, bool), side) for side in (1, -1))
    groups = [Group(np.ones(config.length // 2, np.int32), answers)] * config.rows
    logps = [[-np.ones(each, np.float32)] * 2] * config.rows
    length = config.length if layout.share else config.length // 2 * 3
    return AnswerRows(groups, layout, logps).collate([[i] for i in range(config.rows)], length, config.rows, 2)


def measure(config: Config, case: Case) -> tuple[float, float, float, float]:
    """Temporaries and peak in bytes, FLOPs of one device, and seconds of compiling."""
    target = parse_target(config.topology)
    devices = devices_of(target)
    began = time.monotonic()
    spec, mesh = case.build(), meshes.make_mesh(config.mesh, devices)
    with planned(Planning(devices, target.platform, Path())), compiling(target), all_logits(case.at_once):
        step, layout = prepare_step(spec, resolve(case.loss), optax.adamw(1e-4), mesh)
        frozen = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.frozen[name])
            for name, x in spec.graphdef.abstract.items() if name in layout.frozen
        }  # fmt: skip
        compiled = step.lower(layout.like, shapes_of(case.batch, mesh), frozen).compile()  # type: ignore[attr-defined]
    memory = memory_of(compiled, target.platform)
    flops = Cost(parse(compiled.as_text()), kernel_flops(spec, case.batch)).flops()
    return memory.temporaries, memory.peak, flops, time.monotonic() - began


@contextlib.contextmanager
def all_logits(at_once: bool) -> Iterator[None]:
    """One chunk of the head, however large, instead of chunks."""
    with mock.patch.object(tokens, "LOGITS_BYTES", 2**62) if at_once else contextlib.nullcontext():
        yield


def main(config: Config) -> None:
    """Prints the table as it grows."""
    found = cases(config)
    if wrong := sorted(set(config.what) - set(found)):
        raise InputError(f"--what {wrong[0]}: give some of {', '.join(found)}")
    prepare(parse_target(config.topology))
    print(f"{config.model}, {config.rows} x {config.length}, {config.dtype}, {config.topology}, {config.mesh}")
    print("| what | how | temporaries, GiB | peak, GiB | TFLOP | compiling, s |\n|---|---|---|---|---|---|")
    measure_once = functools.cache(functools.partial(measure, config))
    for what in config.what or found:
        for how, case in found[what]:
            temporaries, peak, flops, seconds = measure_once(case)
            numbers = f"{temporaries / 2**30:.3f} | {peak / 2**30:.3f} | {flops / 1e12:.2f} | {seconds:.0f}"
            print(f"| {what} | {how} | {numbers} |", flush=True)


if __name__ == "__main__":
    run_script(main, Config)
