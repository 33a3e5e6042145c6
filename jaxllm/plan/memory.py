"""The memory of a compiled step: what the compiler states, and from the program the buffers that make up its peak."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax

from jaxllm.plan.hlo import Array, Computation, Instruction, Module
from jaxllm.plan.step import Step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    peak: int
    """The high-water mark; donated state is counted once."""
    host: int


def memory_of(compiled: Any, platform: str) -> Memory:
    """What the compiler states. XLA:CPU's peak leaves temporaries out, so there the sum takes its place."""
    m = compiled.memory_analysis()
    sum_of_all = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    stated = int(getattr(m, "peak_memory_in_bytes", 0) or 0)
    return Memory(
        m.argument_size_in_bytes, m.temp_size_in_bytes, m.output_size_in_bytes, m.alias_size_in_bytes,
        sum_of_all if platform == "cpu" or not stated else stated,
        m.host_temp_size_in_bytes + m.host_argument_size_in_bytes,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A buffer on each device."""

    bytes: int
    array: str
    what: str
    """The argument's name, or JAX's name of the operation."""
    sharding: str
    place: str
    """The line of source that it comes from."""


def held(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on each device."""
    return sum(_part(x) for x in jax.tree.leaves(tree))


def _part(x: Any) -> int:
    return int(_size(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize)


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def arguments_of(step: Step) -> list[Buffer]:
    """The state's arrays, each parameter with its optimizer's as one."""
    found: dict[str, list[Any]] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(step.program.layout.like):
        name = next((key.key for key in reversed(path) if isinstance(getattr(key, "key", None), str)), "")
        found.setdefault(name or jax.tree_util.keystr(path, simple=True, separator="."), []).append(x)
    return [_of_state(name, arrays) for name, arrays in found.items()]


def _of_state(name: str, arrays: list[Any]) -> Buffer:
    x, more = arrays[0], len(arrays) - 1
    what = f"{name} and {more} of its optimizer's" if more else name
    shape = list(x.sharding.shard_shape(x.shape))
    return Buffer(sum(map(_part, arrays)), f"{x.dtype}{shape}", what, str(x.sharding.spec), "")


Leaves = list[frozenset[int]]
"""For each leaf of a value, the buffers that it may lie in."""


class Liveness:
    """Which buffers are alive together at the worst moment of a scheduled program.

    Buffers are an instruction's results that are neither views of its operands nor updated in place. The compiler packs
    better at times, and keeps copies at others, so that its own peak differs somewhat.
    """

    def __init__(self, module: Module):
        self._module = module
        self._memo: dict[str, tuple[int, list[tuple[Computation, Instruction, Array]]]] = {}

    def peak(self) -> tuple[int, list[tuple[Computation, Instruction, Array]]]:
        """(bytes, buffers) beside the arguments."""
        return self._of(self._module.entry)

    def _of(self, computation: Computation) -> tuple[int, list[tuple[Computation, Instruction, Array]]]:
        if computation.name in self._memo:
            return self._memo[computation.name]
        made: list[tuple[Instruction, Array]] = []
        values: dict[str, Leaves] = {}
        order = list(computation.instructions.values())
        for x in order:
            values[x.name] = self._leaves(computation, x, values, made)
        last: dict[int, int] = {}
        for at, x in enumerate(order):
            used = [leaf for name in (x.name, *x.operands) for leaf in values.get(name, [])]
            for buffer in {b for leaf in used for b in leaf}:
                last[buffer] = at
        for leaf in values[computation.root.name]:
            for buffer in leaf:
                last[buffer] = len(order)
        best: tuple[int, list[tuple[Computation, Instruction, Array]]] = (0, [])
        alive: set[int] = set()
        ends: dict[int, list[int]] = {}
        for buffer, at in last.items():
            ends.setdefault(at, []).append(buffer)
        donated: set[int] = set()
        if computation is self._module.entry:  # these lie where arguments were, which are counted as such
            for n, leaf in enumerate(values[computation.root.name]):
                donated |= leaf if n in self._module.donated else frozenset()
        births: dict[str, list[int]] = {}
        for buffer, (x, _) in enumerate(made):
            if buffer in donated:
                continue
            births.setdefault(x.name, []).append(buffer)
        total = 0
        for at, x in enumerate(order):
            for buffer in births.get(x.name, []):
                alive.add(buffer)
                total += made[buffer][1].bytes
            inner = max((self._of(self._module.computations[name]) for name in self._inside(x)),
                        key=lambda found: found[0], default=(0, []))  # fmt: skip
            if total + inner[0] > best[0]:
                own = [(computation, *made[buffer]) for buffer in alive]
                best = (total + inner[0], [*own, *inner[1]])
            for buffer in ends.get(at, []):
                if buffer in alive:
                    alive.remove(buffer)
                    total -= made[buffer][1].bytes
        self._memo[computation.name] = best
        return best

    def _inside(self, x: Instruction) -> list[str]:
        if x.opcode == "while":
            return [x.attribute("body").lstrip("%")]
        return x.called if x.opcode in ("call", "conditional", "async-start") else []

    def _leaves(
        self, computation: Computation, x: Instruction, values: dict[str, Leaves], made: list[tuple[Instruction, Array]]
    ) -> Leaves:
        given = [values.get(name, []) for name in x.operands]
        if x.opcode in ("parameter", "constant", "after-all", "partition-id"):
            return [frozenset()] * len(x.result)
        if x.opcode == "tuple":
            return [leaf for value in given for leaf in value]
        if x.opcode == "get-tuple-element":
            value, index = given[0], int(x.attribute("index") or 0)
            tuples = computation.instructions[x.operands[0]]
            if len(value) == len(tuples.result) and len(x.result) == 1 and index < len(value):
                return [value[index]]
            return [frozenset().union(*value)] * len(x.result)
        if x.opcode in ("bitcast", "while", "opt-barrier", "optimization-barrier", "copy-done") or x.opcode.endswith(
            "-done"
        ):
            if len(given[0]) == len(x.result):
                return given[0]
            return [frozenset().union(*given[0])] * len(x.result)
        if x.opcode == "dynamic-update-slice":
            return given[0]
        changed = self._updated(x, given) if x.opcode == "fusion" else {}
        found: Leaves = []
        for i, array in enumerate(x.result):
            if i in changed:
                found.append(changed[i])
            elif array.space or not array.bytes:
                found.append(frozenset())
            else:
                made.append((x, array))
                found.append(frozenset({len(made) - 1}))
        return found

    def _updated(self, x: Instruction, given: list[Leaves]) -> dict[int, frozenset[int]]:
        """The results of a fusion that update an operand in place: their numbers, and the operand's buffers."""
        inner = self._module.computations[x.called[0]]
        roots = inner.operands(inner.root) if inner.root.opcode == "tuple" else [inner.root]
        numbers = {name: i for i, name in inner.parameters.items()}
        found = {}
        for i, root in enumerate(roots):
            while root.opcode == "bitcast":
                root = inner.operands(root)[0]
            if root.opcode == "dynamic-update-slice" and (at := numbers.get(root.operands[0])) is not None:
                found[i] = frozenset().union(*given[at])
        return found


def largest(step: Step, module: Module, count: int = 10) -> tuple[int, list[Buffer]]:
    """(temporaries at the worst moment by the program's own order, the largest buffers then, arguments too)."""
    total, alive = Liveness(module).peak()
    found = arguments_of(step)
    for _, x, array in alive:
        found.append(Buffer(array.bytes, str(array), _short(x.op_name) or x.name, "", module.place(x)))
    return total, sorted(found, key=lambda buffer: -buffer.bytes)[:count]


def _short(op_name: str) -> str:
    """The end of JAX's path to an operation, without what every path has."""
    parts = [part for part in op_name.split("/") if part not in ("while", "body", "closed_call", "checkpoint", "cond")]
    return re.sub(r"^jit\(\w+\)/", "", "/".join(parts))[-70:]
