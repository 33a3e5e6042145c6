"""The collectives of a compiled program: which axes of the mesh they go over, what they move, and how many bytes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from jax.sharding import Mesh

from jaxllm.plan.groups import Links, axes_of, groups_of, ring
from jaxllm.plan.hlo import Computation, Instruction, Module
from jaxllm.plan.program import KINDS, Cost


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the program, over all its runs in a step."""

    axis: str
    """Mesh axes joined by +, or "none" where the groups follow none."""
    kind: str
    what: str
    """What it moves."""
    bytes: float
    """What each device sends in a step, over all trips."""
    trips: int
    """How often it runs in a step."""
    members: int
    """Devices in a group."""
    link: str
    shape: str
    place: str
    group: tuple[int, ...] = ()
    """Places in the mesh of the devices of one group."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of one layer: its shape, and the mesh axes that each of its dimensions is cut over."""

    name: str
    shape: tuple[int, ...]
    cut: tuple[tuple[str, ...], ...]

    def part(self, sizes: Mapping[str, int], whole: set[str]) -> tuple[int, ...]:
        """Its shape on a device once it is whole along the axes `whole`."""
        return tuple(n // math.prod(sizes[a] for a in axes if a not in whole)
                     for n, axes in zip(self.shape, self.cut, strict=True))  # fmt: skip

    @property
    def axes(self) -> set[str]:
        """All that it is cut over."""
        return {axis for axes in self.cut for axis in axes}


def find(cost: Cost, mesh: Mesh, params: Sequence[Parameter], links: Links) -> list[Collective]:
    """All collectives of a program, each once with its trips."""
    found, chains = [], set()
    for computation, x, times in cost.walk(fusions=True):
        if between := re.search(r'_xla_megascale_transfer_type="(\w+)"', x.rest if x.opcode == "send" else ""):
            found.append(_between_slices(between[1], x, computation, times, mesh, params, links, cost))
            continue
        kind = x.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        if "chain_id=" in x.rest:  # a TPU's, spread over fusions that start it, compute meanwhile, and end it
            chain = x.attribute("channel_id"), re.search(r'chain_id="(\d+)"', x.rest)[1]  # type: ignore[index]
            if chain in chains:
                continue
            chains.add(chain)
        if kind == "all-reduce" and _scatters(computation, x):
            kind = "reduce-scatter"
        groups = links.in_mesh(groups_of(x, mesh.size))
        one = max(groups, key=len) if groups else tuple(range(mesh.size))
        axis = axes_of(groups, mesh) if groups else "+".join(a for a, n in mesh.shape.items() if n > 1)
        size = _payload(kind, computation, x)
        if kind == "collective-permute":
            one = ring(x, mesh) or one
        sent = sent_bytes(kind, size, len(one)) * times
        if not sent or axis == "none":
            continue
        passed = kind == "collective-permute"
        ring_of_product = passed and "ppermute" not in x.op_name and len(one) > 2 and "dot_general" in x.op_name
        if ring_of_product:  # which the compiler made of it
            kind = "reduce-scatter" if _accumulates(cost.module, computation, x) else "all-gather"
        what = _what(kind, axis, x, computation, params, mesh.shape, passed) + ", as a ring" * ring_of_product
        if kind == "all-reduce" and _places(cost.module, computation, x):
            what = _what("all-gather", axis, x, computation, params, mesh.shape) + ", as a sum of parts"
        found.append(Collective(axis, kind, what, sent, times, len(one), links.between(one), str(x.result[-1]),
                                cost.module.place(x), one))  # fmt: skip
    return found


def _between_slices(
    transfer: str, x: Instruction, computation: Computation, times: int, mesh: Mesh, params: Sequence[Parameter],
    links: Links, cost: Cost,
) -> Collective:  # fmt: skip
    """A collective between slices of TPUs, of which each slice's program has a transfer to and from its host."""
    kind = {"ALL_REDUCE": "all-reduce", "ALL_GATHER": "all-gather", "REDUCE_SCATTER": "reduce-scatter",
            "ALL_TO_ALL": "all-to-all"}.get(transfer, "collective-permute")  # fmt: skip
    one = tuple(places[0] for places in links.slices())
    axis, size = axes_of([one], mesh), float(x.result[0].bytes) * (len(one) if kind == "all-gather" else 1)
    what = _what(kind, axis, x, computation, params, mesh.shape)
    sent = sent_bytes(kind, size, len(one)) * times
    return Collective(axis, kind, what, sent, times, len(one), links.between(one), str(x.result[0]),
                      cost.module.place(x), one)  # fmt: skip


def _places(module: Module, computation: Computation, x: Instruction) -> bool:
    """Whether what is summed are parts, each device's in its place among zeros: so a TPU gathers at times."""

    def root(y: Instruction) -> Instruction:
        y = _made(computation, y)
        return module.computations[y.called[0]].root if y.opcode == "fusion" else y

    return any(root(y).opcode == "dynamic-update-slice" for y in computation.operands(x))


def _accumulates(module: Module, computation: Computation, x: Instruction) -> bool:
    """Whether a permute passes on a sum, as in a ring that scatters: zeros at first, then what it is added to."""
    y = _made(computation, computation.operands(x)[0])
    inside = module.computations[y.called[0]].instructions.values() if y.opcode == "fusion" else ()
    adds = y.opcode == "add" or any(z.opcode == "add" and z.result[0].shape for z in inside)
    given = (_made(computation, z).opcode for z in computation.operands(y))
    return y.opcode == "broadcast" or (adds and any(opcode.startswith("collective-permute") for opcode in given))


def _made(computation: Computation, x: Instruction) -> Instruction:
    """The instruction that made what others only copy, slice or join."""
    while x.opcode in _COPIES and x.operands and x.operands[0] in computation.instructions:
        x = computation.instructions[x.operands[0]]
    return x


_COPIES = {"copy", "copy-start", "copy-done", "bitcast", "get-tuple-element", "slice", "slice-start", "slice-done",
           "custom-call"}  # fmt: skip


def sent_bytes(kind: str, size: float, members: int) -> float:
    """What each device sends: size is that of the whole gathered or reduced array, of a permute what is passed on.

    An all-reduce is a reduce-scatter and an all-gather (Thakur et al. 2005).
    """
    share = (members - 1) / members if members else 0.0
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, share)
    return size * factor


def _payload(kind: str, computation: Computation, x: Instruction) -> float:
    """The whole array: of an all-gather its result, of others what they are given."""
    if kind == "all-gather":
        results = x.result
        if x.opcode.endswith("-start"):  # (what was given, the result)
            results = x.result[len(x.operands) : 2 * len(x.operands)]
        return float(sum(y.bytes for y in results))
    return float(sum(y.bytes for y in computation.operands(x)))


def _scatters(computation: Computation, x: Instruction) -> bool:
    """Whether each device keeps only its part of an all-reduce: a TPU's reduce-scatter is such a fusion."""
    if "all-reduce-scatter" in computation.name:
        return True
    users = computation.users.get(x.name, [])
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users) and "fused" in computation.name


def _what(
    kind: str,
    axis: str,
    x: Instruction,
    computation: Computation,
    params: Sequence[Parameter],
    sizes: Mapping[str, int],
    passed: bool = False,
) -> str:
    """What is moved, in words, from the axis, JAX's name of the operation, and shapes; passed: part by part."""
    given = [y for operand in computation.operands(x) for y in operand.result]
    axes = set(axis.split("+"))
    if all(math.prod(y.shape) <= 16 for y in x.result):
        return "sums of metrics and counts"
    backward = "transpose(" in x.op_name
    if axis == "context":
        return "keys and values" if not backward else "keys, values and their gradients"
    if "expert" in axes:
        return "tokens of experts"
    # An all-gather gives a parameter whole along its axes, a reduce-scatter takes a gradient so, a ring passes parts.
    whole = [y.shape for y in (x.result[-1:] if kind == "all-gather" and not passed else given)]
    most = 64 if "fsdp" in axes else 8  # activations are not cut over fsdp but by rows
    along = set() if passed else axes
    held = lambda p, along: any(_alike(p.part(sizes, along), shape, most) for shape in whole)  # noqa: E731
    matrices = [p for p in params if p.axes & axes and held(p, along)]
    replicas = [p for p in params if not p.axes & axes and held(p, set())]
    reduces = kind in ("reduce-scatter", "all-reduce")
    if matrices and not reduces:
        return f"parameters gathered ({_names(matrices)})"
    if matrices and kind == "reduce-scatter":
        return f"gradients scattered ({_names(matrices)})"
    if reduces and (matrices or replicas) and (backward or not x.op_name):
        return f"gradients summed ({_names(matrices or replicas)})"
    verb = _VERBS.get(kind, "moved")
    if reduces and not x.op_name:
        return f"gradients {verb}"
    return f"activations {verb}" + (" (backward)" if backward else "")


_VERBS = {
    "all-gather": "gathered", "all-reduce": "summed", "reduce-scatter": "summed and scattered",
    "all-to-all": "exchanged", "collective-permute": "passed on",
}  # fmt: skip


def _names(params: Sequence[Parameter]) -> str:
    return re.sub(r"^blocks\.", "", min((p.name for p in params), key=len))


def _alike(part: tuple[int, ...], shape: tuple[int, ...], most: int) -> bool:
    """Whether an array of this shape can hold this part of a parameter, or one of `most` pieces along one dimension.

    Compilers transpose arrays, and split dimensions into tiles.
    """
    left = sorted(n for n in part if n > 1)
    return any(_piece(left, sorted(merged), most) for merged in _merges(tuple(n for n in shape if n > 1), len(left)))


def _piece(left: list[int], right: list[int], most: int) -> bool:
    if left == right:
        return True
    rest = [*left]
    for n in right:
        if n in rest:
            rest.remove(n)
    pieces, left_over = divmod(math.prod(left), math.prod(right))
    return len(left) > 1 and len(rest) == 1 and not left_over and 1 < pieces <= most


def _merges(shape: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """The shape with neighbouring dimensions merged so that `count` are left."""
    for cuts in itertools.combinations(range(1, len(shape)), count - 1) if 0 < count <= len(shape) else ():
        ends = (0, *cuts, len(shape))
        yield tuple(math.prod(shape[low:high]) for low, high in itertools.pairwise(ends))
