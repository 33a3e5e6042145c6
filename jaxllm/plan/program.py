"""What a compiled program does in one step on one device: matrix products, bytes of memory moved, collectives.

Loops count with their trips, conditionals with their most expensive branch, for some device takes it and all wait.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from jaxllm.plan.hlo import Array, Computation, Instruction, Module

Kernels = Callable[[str, list[Array], tuple[Array, ...]], float | None]
"""(description of a kernel that XLA did not make, arguments, results) -> its FLOPs, None where no formula knows it."""


@dataclasses.dataclass
class Cost:
    """Counts for one device and step."""

    module: Module
    kernels: Kernels
    unknown: set[str] = dataclasses.field(default_factory=set)
    """Kernels without a formula, which are counted as no FLOPs."""
    _memo: dict[str, float] = dataclasses.field(default_factory=dict)

    def flops(self) -> float:
        """FLOPs of matrix products and kernels; a multiply-add is two."""
        return self._computation(self.module.entry)

    def by_dtype(self) -> dict[str, float]:
        """The same by the type of the inputs."""
        found: dict[str, float] = {}
        for computation, x, times in self.walk(fusions=True):
            if n := self._own(computation, x):
                given = [y.result[0].dtype for y in computation.operands(x) if y.result]
                dtype = next((name for name in given if "f" in name), x.result[0].dtype)
                found[dtype] = found.get(dtype, 0.0) + n * times
        return found

    def walk(self, fusions: bool = False) -> Iterator[tuple[Computation, Instruction, int]]:
        """Each instruction that runs, with its computation and how often; fusions: those inside of fusions too."""
        yield from self._walk(self.module.entry, 1, fusions)

    def _walk(
        self, computation: Computation, times: int, fusions: bool
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        for x in computation.instructions.values():
            yield computation, x, times
            for called, trips in self._calls(computation, x, fusions):
                yield from self._walk(called, times * trips, fusions)

    def _calls(self, computation: Computation, x: Instruction, fusions: bool) -> list[tuple[Computation, int]]:
        if x.opcode == "while":
            body = self.module.computations[x.attribute("body").lstrip("%")]
            return [(body, self.module.trips(computation, x))]
        if x.opcode == "conditional":
            branches = [self.module.computations[name] for name in x.called]
            return [(max(branches, key=self._computation), 1)] if branches else []
        if x.opcode == "call" or x.opcode == "async-start" or (fusions and x.opcode == "fusion"):
            return [(self.module.computations[name], 1) for name in x.called]
        return []

    def _computation(self, computation: Computation) -> float:
        if computation.name not in self._memo:
            total = 0.0
            for x in computation.instructions.values():
                total += self._own(computation, x)
                total += sum(trips * self._computation(called) for called, trips in self._calls(computation, x, True))
            self._memo[computation.name] = total
        return self._memo[computation.name]

    def _own(self, computation: Computation, x: Instruction) -> float:
        """Of the instruction itself, without what it calls."""
        if x.opcode == "dot":
            return dot_flops(x, computation.operands(x))
        if x.opcode == "convolution":
            return convolution_flops(x, computation.operands(x))
        if x.opcode == "custom-call":
            return self._kernel(computation, x)
        if x.opcode == "ragged-dot":
            left, right = (y.result[0] for y in computation.operands(x)[:2])
            return 2.0 * math.prod(left.shape) * right.shape[-1]
        return 0.0

    def _kernel(self, computation: Computation, x: Instruction) -> float:
        target = x.attribute("custom_call_target").strip('"')
        given = [y.result[0] for y in computation.operands(x) if y.result]
        if re.search(r"gemm|matmul", target, re.I):
            return _gemm(x, given)
        if not re.search(r"tpu_custom_call|fmha|triton|mosaic|cudnn", target):
            return 0.0
        found = self.kernels(f"{target} {x.op_name} {x.name}", given, x.result)
        if found is None:
            self.unknown.add(x.op_name or target)
        return found or 0.0

    def traffic(self) -> float:
        """Bytes that move between the device's main memory and its cores: what instructions read and write.

        A fusion reads the slice that it takes of an array, and writes the slice that it changes.
        """
        return sum(times * self._moved(computation, x) for computation, x, times in self.walk())

    def _moved(self, computation: Computation, x: Instruction) -> float:
        if x.opcode in _FREE or x.opcode.endswith("-done"):
            return 0.0
        operands = computation.operands(x)
        if x.opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * _main(x.result)
        if x.opcode in ("dynamic-update-slice", "scatter"):
            return 2.0 * (_main(operands[-1 if x.opcode == "scatter" else 1].result) if len(operands) > 1 else 0)
        if x.opcode == "fusion":
            return self._fused(self.module.computations[x.called[0]], x, operands)
        return float(_main(x.result) + sum(_main(y.result) for y in operands))

    def _fused(self, inner: Computation, x: Instruction, operands: list[Instruction]) -> float:
        total = 0.0
        for i, operand in enumerate(operands):
            users = inner.users.get(inner.parameters.get(i, ""), [])
            sliced = users and all(user.opcode in ("dynamic-slice", "slice", "gather") for user in users)
            changed = users and all(user.opcode == "dynamic-update-slice" and user.operands[0] == inner.parameters[i]
                                    for user in users)  # fmt: skip
            if users and all(user.opcode in ("tuple", *KINDS) for user in users):
                continue  # passed through, to a collective that goes on meanwhile
            if sliced and operand.result and operand.result[0].space == 0:
                total += sum(user.bytes for user in users)
            elif not changed:
                total += _main(operand.result)
        roots = inner.operands(inner.root) if inner.root.opcode == "tuple" else [inner.root]
        for root, result in zip(roots, x.result, strict=False):
            if result.space or root.opcode == "parameter" or root.opcode in KINDS:
                continue
            update = inner.operands(root)[1:2] if root.opcode == "dynamic-update-slice" else []
            total += update[0].bytes if update else result.bytes
        return total


KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")  # fmt: skip
"""The opcodes of collectives."""

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "after-all", "partition-id", "replica-id", "opt-barrier", "async-start", "async-update",
}  # fmt: skip
"""Instructions that move nothing themselves."""


def _main(arrays: tuple[Array, ...]) -> int:
    """Bytes of those arrays that are in the chip's main memory."""
    return sum(x.bytes for x in arrays if x.space == 0)


def dot_flops(x: Instruction, operands: list[Instruction]) -> float:
    """2 x elements of the result x length of what is summed over."""
    left = operands[0].result[0]
    return 2.0 * math.prod(x.result[0].shape) * math.prod(left.shape[i] for i in x.numbers("lhs_contracting_dims"))


def convolution_flops(x: Instruction, operands: list[Instruction]) -> float:
    """2 x the products of real elements. A TPU's compiler writes matrix products as convolutions.

    There a batch dimension is a spatial one, whose padding, strides and dilations leave one real product per output.
    """
    left, right = operands[0].result[0].shape, operands[1].result[0].shape
    labels = re.match(r"([\w?]+)_([\w?]+)->([\w?]+)", x.attribute("dim_labels"))
    assert labels, x
    lhs, rhs, out = labels.groups()
    result = x.result[0].shape
    groups = int(x.attribute("batch_group_count") or 1)
    outer = result[out.index("b")] * result[out.index("f")] * right[rhs.index("i")] / (groups if groups > 1 else 1)
    window = _window(x.attribute("window"))
    for n, name in enumerate(sorted(c for c in out if c.isdigit())):
        at = {key: (values[n] if n < len(values) else None) for key, values in window.items()}
        outer *= _pairs(left[lhs.index(name)], right[rhs.index(name)], result[out.index(name)], at)
    return 2.0 * outer


def _window(text: str) -> dict[str, list[tuple[int, ...]]]:
    """The fields of window={size=3x3 pad=1_1x1_1 stride=2x2 lhs_dilate=2x2 rhs_dilate=1x1}."""
    found = dict(re.findall(r"(\w+)=([\dx_\-]+)", text))
    return {key: [tuple(map(int, part.split("_"))) for part in x.split("x")] for key, x in found.items()}


def _pairs(size: int, kernel: int, out: int, at: dict[str, tuple[int, ...] | None]) -> int:
    """Pairs of (output position, kernel position) whose input is a real element, along one dimension."""
    stride, low = (at.get("stride") or (1,))[0], (at.get("pad") or (0,))[0]
    dilate, spread = (at.get("lhs_dilate") or (1,))[0], (at.get("rhs_dilate") or (1,))[0]
    if kernel == 1 and low == 0 and dilate == 1 and out * stride <= size + stride - 1:
        return out
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * spread - low
    real = (place >= 0) & (place % dilate == 0) & (place // dilate < size)
    return int(np.count_nonzero(real))


def _gemm(x: Instruction, given: list[Array]) -> float:
    """A library's matrix product: 2 x sqrt(elements of both inputs and the result), with batch dimensions apart."""
    left, right, result = given[0].shape, given[1].shape, x.result[0].shape
    batch = math.prod(result[:-2]) if len(left) == len(right) == len(result) else 1
    per = (math.prod(left) // batch) * (math.prod(right) // batch) * (math.prod(result) // batch)
    return 2.0 * batch * math.isqrt(per)
