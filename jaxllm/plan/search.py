"""Searches for the fastest configuration that fits: meshes, remat policies, microbatches and attention backends.

All candidates are estimated by formula, which takes no compiler; the best of them are compiled, and their plans decide.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from jaxllm.axes import AXES
from jaxllm.distributed.mesh import shardings
from jaxllm.models.flops import config_of
from jaxllm.params import bind, count
from jaxllm.plan.memory import held
from jaxllm.plan.report import Report
from jaxllm.plan.target import Target
from jaxllm.plan.text import gib
from jaxllm.train.setup import Program
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration."""

    mesh: str
    remat: str
    microbatches: int
    backend: str

    @property
    def flags(self) -> list[str]:
        """As flags of a script."""
        return ["--mesh", self.mesh, "--remat", self.remat, "--microbatches", str(self.microbatches)]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a candidate would take at best, by formula, per device."""

    candidate: Candidate
    bytes: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Found:
    """A candidate that was compiled. report: None where the compiler refused it, and why."""

    estimate: Estimate
    report: Report | None
    refused: str = ""

    @property
    def fits(self) -> bool:
        """Whether its peak is within the chip's memory."""
        if self.report is None:
            return False
        chip = self.report.step.target.chip
        return chip is None or self.report.memory.peak <= chip.memory * self.report.share


_SAVED = {"full": 1.0, "none": 18.0}
"""Activations of a layer that remat keeps, in residual streams of bfloat16, (Korthikanti et al. 2022, section
4, without attention's scores); policies between them are taken to keep eight."""
_AGAIN = {"full": 4 / 3, "none": 1.0}
"""Hardware FLOPs over model FLOPs; of policies between them 1.1."""


def candidates(
    target: Target, devices: int, program: Program, rows: int, length: int, remats: Sequence[str]
) -> Iterator[Candidate]:
    """All configurations whose mesh divides rows and model."""
    config = config_of(bind(program.model.graphdef, program.model.graphdef.abstract))
    backends = {"tpu": ("splash", "xla"), "gpu": ("flash", "xla")}.get(target.platform, ("xla",))
    if not hasattr(config, "backend") or length < 128:
        backends = ("auto",)
    for sizes in _meshes(devices, config, length):
        if rows % (sizes["data"] * sizes["fsdp"]):
            continue
        text = ",".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1) or "data=1"
        for remat, backend in itertools.product(remats, backends):
            for parts in (1, 2, 4, 8, 16):
                if rows % (sizes["data"] * sizes["fsdp"] * parts) == 0:
                    yield Candidate(text, remat, parts, backend)


def _meshes(devices: int, config: Any, length: int) -> Iterator[dict[str, int]]:
    powers = [n for n in range(1, devices + 1) if devices % n == 0]
    experts = getattr(config, "experts", 0)
    for tensor, context, expert in itertools.product(powers, powers, powers):
        rest = devices // (tensor * context * expert)
        if rest * tensor * context * expert != devices or tensor > 16:
            continue
        if (expert > 1 and (not experts or experts % expert)) or (context > 1 and (length < 8192 or length % context)):
            continue
        for fsdp in (n for n in powers if rest % n == 0):
            yield {"data": rest // fsdp, "fsdp": fsdp, "tensor": tensor, "context": context, "expert": expert}


def estimate(
    candidate: Candidate, sizes: dict[str, int], program: Program, target: Target, flops: float, tokens: int
) -> Estimate | None:
    """None where the mesh does not divide the model. tokens: of a step, over all devices."""
    mesh = AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    model, like = program.model, program.layout.like
    try:
        at = shardings(model.graphdef.abstract, mesh, model.rules, limits=model.graphdef.limits)
    except InputError:
        return None
    own = lambda tree, places: held(  # noqa: E731
        jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
    )
    state = own(model.graphdef.abstract, at)
    state += own(like.opt_state, shardings(like.opt_state, mesh, model.rules, model.trained))
    config = config_of(bind(model.graphdef, model.graphdef.abstract))
    width, depth = getattr(config, "width", 1), getattr(config, "depth", 1)
    kept = _SAVED.get(candidate.remat, 8.0)
    local = tokens / (sizes["data"] * sizes["fsdp"] * sizes["context"]) / candidate.microbatches
    stream = local * width * 2 / sizes["tensor"]
    params = count(model.graphdef.abstract)
    gathered = 2 * 2 * params / depth / sizes["tensor"] / sizes["expert"]
    gradients = own(model.trained, {name: at[name] for name in model.trained})
    logits = min(local, 2048) * getattr(config, "vocab_size", 1) * 4 * 2 / sizes["tensor"]
    scores = 0.0
    if candidate.backend == "xla":
        scores = local * tokens_per_row(program) * config.heads / sizes["tensor"] * 6
    memory = state + gradients + kept * depth * stream + 18 * stream * sizes["tensor"] + gathered + logits + scores
    return Estimate(candidate, memory, _seconds(candidate, sizes, target, flops, params, local, width, depth))


def tokens_per_row(program: Program) -> int:
    """The length of a row."""
    batch = program.data.build(program.data.plan.step(0)[:1], 1)
    return int(getattr(batch, "batch", batch).tokens_BT.shape[1])


def _seconds(
    candidate: Candidate, sizes: dict[str, int], target: Target, flops: float, params: int, local: float, width: int,
    depth: int,
) -> float:  # fmt: skip
    chip = target.chip
    if chip is None:
        return flops
    devices = math.prod(sizes.values())
    again = _AGAIN.get(candidate.remat, 1.1)
    compute = flops * again / devices / chip.flops * (target.devices / devices) ** -1
    link = chip.link * (2 * chip.dims if target.platform == "tpu" else 1)
    crossing = target.platform == "gpu" and devices > target.sizes[2]
    outer = chip.network if crossing else link
    share = lambda n: (n - 1) / n  # noqa: E731
    mine = params / sizes["tensor"] / sizes["expert"]
    rounds = candidate.microbatches * (3 if again < 1.3 else 4)  # gathered forward, backward and again; scattered once
    sent = rounds * 2 * mine * share(sizes["fsdp"]) / outer
    sent += 2 * 4 * mine / sizes["fsdp"] * share(sizes["data"]) / outer
    sent += candidate.microbatches * 4 * again * depth * local * width * 2 * 2 * share(sizes["tensor"]) / link
    sent += candidate.microbatches * 3 * depth * local * width * 2 * share(sizes["context"]) / link
    return max(compute, sent)


def finalists(found: Sequence[Estimate], target: Target, share: float, most: int) -> list[Estimate]:
    """The fastest that fit by estimate, at most two of one mesh; where none fits, the smallest."""
    room = target.chip.memory * share if target.chip else math.inf
    chosen: list[Estimate] = []
    for one in sorted(found, key=lambda x: (x.seconds, x.candidate.microbatches, x.bytes)):
        alike = [x for x in chosen if x.candidate.mesh == one.candidate.mesh]
        if one.bytes <= room and len(alike) < 2:
            chosen.append(one)
    return chosen[:most] or sorted(found, key=lambda x: x.bytes)[:most]


def search(
    estimates: Sequence[Estimate], target: Target, share: float, most: int, compile_one: Callable[[Candidate], Report]
) -> list[Found]:
    """Compiles the finalists: those that fit first, the fastest first."""
    found = []
    for one in finalists(estimates, target, share, most):
        try:
            found.append(Found(one, compile_one(one.candidate)))
        except InputError as error:
            found.append(Found(one, None, str(error)))
    return sorted(found, key=lambda x: (not x.fits, x.report.times.best if x.report and x.report.times else math.inf))


def json_of(found: Sequence[Found]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [
        {**dataclasses.asdict(x.estimate.candidate), "fits": x.fits, "refused": x.refused,
         "estimated_bytes": x.estimate.bytes, "estimated_seconds": x.estimate.seconds,
         "plan": x.report and x.report.json()} for x in found
    ]  # fmt: skip


def text_of(found: Sequence[Found], tried: int) -> str:
    """A table, side by side."""
    lines = [
        f"{tried} configurations estimated, {len(found)} compiled; the fastest that fits is first",
        f"{'mesh':<28} {'remat':<10} {'parts':>5} {'attention':<9} {'peak':>10} {'step, ms':>10} {'apart':>8} "
        f"{'MFU':>6}  bound by",
    ]
    for x in found:
        c, r = x.estimate.candidate, x.report
        head = f"{c.mesh:<28} {c.remat:<10} {c.microbatches:>5} {c.backend:<9}"
        if r is None:
            lines.append(f"{head} {x.refused[:120]}")
            continue
        t = r.times
        time = f"{t.best * 1e3:>10.1f} {t.apart * 1e3:>8.1f} {r.mfu_in(t.best):>6.1%}  {t.bound}" if t else f"{'':>10}"
        lines.append(f"{head} {gib(r.memory.peak):>10} {time}{'' if x.fits else '  does not fit'}")
    return "\n".join(lines)
