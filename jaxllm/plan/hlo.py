"""Reads the text of a compiled program (XLA's HLO): its computations, and how often each of them runs in a step."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0,
}  # fmt: skip


class Array(NamedTuple):
    """The type, shape and memory of an array on one device."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0
    """XLA's memory space: 0 is the chip's main memory, 5 the host's; a TPU's 1 is on the chip."""

    @property
    def bytes(self) -> int:
        """Without padding. Types of 8 bits (float8 of any kind) have no entry of their own."""
        return math.prod(self.shape) * _BITS.get(self.dtype, 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction. `result` has an array for each leaf of a tuple."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    """What stands between the brackets of a constant or parameter."""
    rest: str
    """Attributes and metadata."""
    root: bool = False

    def attribute(self, name: str) -> str:
        """The text of an attribute up to the next comma outside of brackets; "" where there is none."""
        at = re.search(rf"(?:^|, ){name}=", self.rest)
        return _upto_comma(self.rest, at.end()) if at else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """An attribute such as lhs_contracting_dims={1,2}."""
        return tuple(map(int, re.findall(r"\d+", self.attribute(name))))

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(x.bytes for x in self.result)

    @property
    def op_name(self) -> str:
        """JAX's path to the operation that this came from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """The computations that it calls by name, but those that a reduction applies to each element."""
        one = r"(?:calls|body|condition|called_computation|true_computation|false_computation)=%([\w.\-]+)"
        found = re.findall(one, self.rest)
        many = re.findall(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}", self.rest)
        found += [name for text in many for name in re.findall(r"%([\w.\-]+)", text)]
        return found + re.findall(r"(?<!\w)to_apply=%([\w.\-]+)", self.rest) * (self.opcode == "call")


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions, in the order in which they run where the program is scheduled."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction whose result is that of the computation."""
        return next((x for x in self.instructions.values() if x.root), next(reversed(self.instructions.values())))

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Their names by number."""
        return {int(x.literal): x.name for x in self.instructions.values() if x.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each result."""
        found: dict[str, list[Instruction]] = {}
        for x in self.instructions.values():
            for name in x.operands:
                found.setdefault(name, []).append(x)
        return found

    def operands(self, x: Instruction) -> list[Instruction]:
        """The instructions whose results it takes."""
        return [self.instructions[name] for name in x.operands if name in self.instructions]


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program, for one device."""

    computations: dict[str, Computation]
    entry: Computation
    frames: dict[int, str]
    """The place in the source, "file.py:12", of each stack frame."""
    donated: frozenset[int] = frozenset()
    """The numbers of the results that lie where arguments were."""

    def place(self, x: Instruction) -> str:
        """Where in the source it came from; "" where that is not known."""
        if found := re.search(r"stack_frame_id=(\d+)", x.rest):
            return self.frames.get(int(found[1]), "")
        found = re.search(r'source_file="([^"]*)" source_line=(\d+)', x.rest)
        return f"{found[1]}:{found[2]}" if found else ""

    def walk(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Each instruction of a step outside of fusions, with its computation and how often it runs.

        Of the branches of a conditional all are walked; `branches` has those to choose among.
        """
        yield from self._walk(self.entry, 1)

    def _walk(self, computation: Computation, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        for x in computation.instructions.values():
            yield computation, x, times
            if x.opcode == "while":
                trips = self.trips(computation, x)
                yield from self._walk(self.computations[_name(x.attribute("body"))], times * trips)
            elif x.opcode in ("call", "conditional") or x.opcode.startswith("async"):
                for name in x.called:
                    yield from self._walk(self.computations[name], times)

    def trips(self, computation: Computation, loop: Instruction) -> int:
        """How often the body of a while loop runs: what the compiler wrote down, or read from its condition."""
        if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(found[1])
        condition = self.computations[_name(loop.attribute("condition"))]
        compared = self._comparison(condition)
        if compared is None:
            return 1
        index, limit, direction = compared
        start = self._start(computation, loop, index)
        body = self.computations[_name(loop.attribute("body"))]
        step = self._step(body, index)
        distance = limit - start + (direction in ("LE", "GE")) * (1 if step > 0 else -1)
        return max(0, -(-distance // step)) if step else 1

    def _comparison(self, condition: Computation) -> tuple[int, int, str] | None:
        """(element of the carry, limit, direction) of a condition that compares an element with a constant."""
        root = condition.root
        inner, given = condition, {}
        if root.opcode == "fusion":
            inner = self.computations[root.called[0]]
            given = {name: condition.instructions[root.operands[i]] for i, name in inner.parameters.items()}
            root = inner.root
        if root.opcode != "compare":
            return None
        sides = [given.get(x.name, x) for x in map(_past_copies(inner), inner.operands(root))]
        sides = [_past_copies(condition)(x) for x in sides]
        index = next((int(x.attribute("index")) for x in sides if x.opcode == "get-tuple-element"), None)
        limit = next((int(x.literal) for x in sides if x.opcode == "constant"), None)
        return None if index is None or limit is None else (index, limit, root.attribute("direction"))

    def _start(self, computation: Computation, loop: Instruction, index: int) -> int:
        made = computation.instructions.get(loop.operands[0])
        if made is None or made.opcode != "tuple" or index >= len(made.operands):
            return 0
        first = _past_copies(computation)(computation.instructions[made.operands[index]])
        return int(first.literal) if first.opcode == "constant" else 0

    def _step(self, body: Computation, index: int) -> int:
        root = body.root
        if root.opcode != "tuple" or index >= len(root.operands):
            return 1
        x, inner = _past_copies(body)(body.instructions[root.operands[index]]), body
        if x.opcode == "fusion":
            inner = self.computations[x.called[0]]
            x = inner.root
        steps = [y for y in inner.operands(x) if y.opcode == "constant"]
        if x.opcode == "add" and len(steps) == 1 and re.fullmatch(r"-?\d+", steps[0].literal):
            return int(steps[0].literal)
        return 1


def _past_copies(computation: Computation):  # type: ignore[no-untyped-def]
    def follow(x: Instruction) -> Instruction:
        while x.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start") and x.operands:
            x = computation.instructions[x.operands[0]]
        return x

    return follow


def _name(text: str) -> str:
    return text.lstrip("%")


def _upto_comma(text: str, start: int) -> str:
    depth = 0
    for at in range(start, len(text)):
        c = text[at]
        depth += (c in "([{") - (c in ")]}")
        if depth < 0 or (depth == 0 and c == "," and text[at + 1 : at + 2] == " "):
            return text[start:at]
    return text[start:]


def _closing(text: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"unbalanced: {text[:80]}")


_ARRAY = re.compile(r"(\w+)\[([\d,<= ]*)\](?:\{[^}]*?(?:S\((\d+)\))?[^}S]*\})?")


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays in the text of a type."""
    found = _ARRAY.findall(text)
    return tuple(
        Array(d, tuple(int(n.strip("<= ")) for n in s.split(",") if n), int(space or 0)) for d, s, space in found
    )


_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")


def parse(text: str) -> Module:
    """The program in the text that `compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if line[:1] not in (" ", "}", "") and line.endswith("{") and (head := _HEAD.match(line)):
            current = Computation(head[1], {})
            computations[head[1]] = current
            entry = current if line.startswith("ENTRY") else entry
        elif current is not None and (found := _LINE.match(line)):
            x = _instruction(found[2], found[3], bool(found[1]))
            current.instructions[x.name] = x
    if entry is None:
        raise ValueError("the text has no entry computation")
    aliases = text.partition("\n")[0].partition("input_output_alias=")[2]
    donated = re.findall(r"\{(\d*)\}: \(\d+, \{[^}]*\}, m\w+-alias\)", aliases)
    return Module(computations, entry, _frames(text), frozenset(int(n or 0) for n in donated))


def _instruction(name: str, text: str, root: bool) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, text = text[:end], text[end:].lstrip()
    opening = text.index("(")
    closing = _closing(text, opening)
    inside, opcode = text[opening + 1 : closing], text[:opening]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    literal = inside if opcode in ("constant", "parameter") else ""
    return Instruction(name, opcode, arrays(kind), operands, literal, text[closing + 1 :].lstrip(", "), root)


def _frames(text: str) -> dict[int, str]:
    """The tables before the first computation: names of files, places in them, and frames that name a place."""

    def rows(title: str) -> dict[int, str]:
        found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        return {int(n): rest for n, rest in re.findall(r"^(\d+) (.*)$", found[1], re.M)} if found else {}

    def number(name: str, text: str) -> int:
        found = re.search(rf"{name}=(\d+)", text)
        return int(found[1]) if found else 0

    files, places = rows("FileNames"), rows("FileLocations")
    where = {n: f"{files.get(number('file_name_id', x), '').strip(chr(34))}:{number('line', x)}"
             for n, x in places.items()}  # fmt: skip
    return {n: where.get(number("file_location_id", x), "") for n, x in rows("StackFrames").items()}
