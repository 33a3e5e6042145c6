"""Tables that map tensors on disk to our parameters and back.

A table has a rule per name on disk and is used in both directions. A tensor on disk is one row of a stacked parameter
of ours, or of several joined along an axis (a fused projection), and may be transposed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import mmap
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

Row = tuple[int, ...]
"""Index into the leading axes of a stacked parameter: () for one that is not stacked, (layer,), (layer, expert)."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One name on disk, the parameters of ours in that tensor, and its layout."""

    theirs: str
    """Name on disk; `{layer}`, `{expert}` stand for the leading axes of ours."""
    ours: tuple[str, ...]
    """The parameters in it, joined in this order along `axis`. A model without them does not use the rule."""
    transposed: bool = False
    """Its axes are in reverse order on disk (torch keeps a kernel as [out, in], a convolution's as [out, in, taps])."""
    axis: int = 0
    """Where the parts are joined, in the layout on disk."""
    absent: tuple[int, ...] = ()
    """Layers without this tensor on disk."""
    fill: float = 0.0
    """The value of our rows for those layers."""


def linear(theirs: str, *ours: str) -> tuple[Rule, ...]:
    """The rules of a torch `Linear`: weight [out, in] and bias, of one or several `Dense` of ours."""
    return (
        Rule(f"{theirs}.weight", tuple(f"{x}.kernel" for x in ours), transposed=True),
        Rule(f"{theirs}.bias", tuple(f"{x}.bias" for x in ours)),
    )


def conv1d(theirs: str, *ours: str) -> tuple[Rule, ...]:
    """The rules of GPT-2's `Conv1D`: weight [in, out] and bias, of one or several `Dense` of ours."""
    weight, bias = linear(theirs, *ours)
    return dataclasses.replace(weight, transposed=False, axis=1), bias


def norm(theirs: str, ours: str, absent: tuple[int, ...] = ()) -> tuple[Rule, ...]:
    """The rules of a norm: weight and bias, ones and zeros in layers that have none."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}.scale",), absent=absent, fill=1.0),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), absent=absent),
    )


def embedding(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rule of an embedding table."""
    return (Rule(f"{theirs}.weight", (f"{ours}.embedding",)),)


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of a family's tensors."""

    rules: tuple[Rule, ...]
    prefix: str = ""
    """The prefix of most names on disk; a model saved without a head lacks it."""
    ignore: tuple[str, ...] = ()
    """Regular expressions of whole names on disk to ignore: buffers, poolers, the heads of other tasks."""
    renames: tuple[tuple[str, str], ...] = ()
    """Old spellings: (regular expression, replacement), applied to every name first."""
    heads: tuple[str, ...] = ()
    """Modules of ours (first part of the name) that are initialised where the file has none or one of another shape."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A row of a parameter of ours, and its bounds along the rule's axis in the tensor on disk."""

    name: str
    row: Row
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on disk in terms of ours."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    parts: tuple[Part, ...]


Layout = dict[str, Tensor]
"""All tensors of a model on disk, by name there."""


def layout(table: Table, shapes: Mapping[str, Any]) -> Layout:
    """The tensors on disk of parameters with these names and shapes (values: anything with `.shape`).

    Raises ValueError for a parameter without a rule.
    """
    tensors: Layout = {}
    for rule in table.rules:
        if not any(name in shapes for name in rule.ours):
            continue
        lead = ("{layer}" in rule.theirs) + ("{expert}" in rule.theirs)
        for row in itertools.product(*map(range, shapes[rule.ours[0]].shape[:lead])):
            if not row or row[0] not in rule.absent:
                tensor = _tensor(rule, row, shapes)
                assert tensor.name not in tensors, f"two rules for {tensor.name}"
                tensors[tensor.name] = tensor
    held = {part.name for tensor in tensors.values() for part in tensor.parts}
    if lost := sorted(shapes.keys() - held):
        raise ValueError(f"no rule for {', '.join(lost)}")
    return tensors


def _tensor(rule: Rule, row: Row, shapes: Mapping[str, Any]) -> Tensor:
    sizes = [_swap(rule, tuple(shapes[name].shape[len(row) :])) for name in rule.ours]
    stops = list(itertools.accumulate(size[rule.axis] for size in sizes)) if sizes[0] else [0]
    parts = tuple(Part(n, row, a, b) for n, a, b in zip(rule.ours, [0, *stops], stops, strict=False))
    shape = (*sizes[0][: rule.axis], stops[-1], *sizes[0][rule.axis + 1 :]) if sizes[0] else ()
    return Tensor(rule.theirs.format(**dict(zip(("layer", "expert"), row, strict=False))), shape, rule, parts)


def _swap(rule: Rule, axes: Sequence[Any]) -> tuple[Any, ...]:
    """Our axes in the order on disk, and the inverse."""
    return tuple(axes[::-1] if rule.transposed else axes)


def join(tensor: Tensor, fetch: Callable[[str, Row], np.ndarray]) -> np.ndarray:
    """The tensor on disk, made of the rows of our parameters that `fetch(name, row)` gives."""
    parts = [fetch(part.name, part.row) for part in tensor.parts]
    if tensor.rule.transposed:
        parts = [part.T for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=tensor.rule.axis)


Rows = dict[Row, tuple[Tensor, Part]]
"""Where each row of a parameter of ours is on disk."""


def sources(tensors: Layout) -> dict[str, Rows]:
    """The inverse of a layout: the rows of each parameter of ours."""
    rows: dict[str, Rows] = {}
    for tensor in tensors.values():
        for part in tensor.parts:
            rows.setdefault(part.name, {})[part.row] = tensor, part
    return rows


def piece(
    rows: Rows,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
    dtype: Any,
    read: Callable[[str], np.ndarray],
) -> np.ndarray:
    """The slice `index` of a parameter of ours of this shape, read row by row from the tensors on disk.

    rows: from `sources`. read: name on disk -> the array there; only the needed parts of it are used.
    """
    bounds = [part.indices(n)[:2] for part, n in zip(index, shape, strict=True)]
    out = _empty([b - a for a, b in bounds], np.dtype(dtype))
    rule = next(iter(rows.values()))[0].rule
    lead = len(next(iter(rows)))
    for row in itertools.product(*(range(a, b) for a, b in bounds[:lead])):
        at = tuple(r - a for r, (a, _) in zip(row, bounds, strict=False))
        if row not in rows:
            out[at] = rule.fill
            continue
        tensor, part = rows[row]
        cut = [slice(a, b) for a, b in _swap(rule, bounds[lead:])]
        if cut:
            cut[rule.axis] = slice(part.start + cut[rule.axis].start, part.start + cut[rule.axis].stop)
        x = read(tensor.name)[tuple(cut)]
        out[at] = x.T if rule.transposed else x
    return out


def _empty(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """An array in separate pages of memory, which the system gets back when it is freed (malloc would keep them), and
    aligned, so that JAX on CPU uses it without a copy."""
    if not (size := math.prod(shape) * dtype.itemsize):
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), dtype).reshape(shape)


COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of a module's tensors; left out."""


def known_name(table: Table, tensors: Collection[str], found: str) -> str:
    """The name in a layout of a tensor that a file calls `found`, or one that is not in the layout."""
    name = found.replace(COMPILED, "")
    for old, new in table.renames:
        name = re.sub(old, new, name)
    return table.prefix + name if name not in tensors and table.prefix + name in tensors else name


@dataclasses.dataclass(frozen=True)
class Match:
    """Which tensors of a layout are in a file."""

    names: dict[str, str]
    """Name in the layout -> name in the file."""
    initialised: frozenset[str]
    """Parameters of ours that the file lacks, all of a head."""
    ignored: tuple[str, ...]
    """Names in the file that the table ignores."""
    problems: tuple[str, ...]
    """All tensors that are missing, not expected, or of another shape."""
    notes: tuple[str, ...]


def match(
    table: Table, tensors: Layout, shapes: Mapping[str, tuple[int, ...]], skip: Mapping[str, str] | None = None
) -> Match:
    """Compares a layout with the names and shapes in a file. skip: heads to initialise in any case -> why."""
    names: dict[str, str] = {}
    ignored, problems, notes = [], [], []
    for found in shapes:
        name = known_name(table, tensors, found)
        if name in names:
            problems.append(f"{names[name]} and {found} are the same tensor")
        elif name in tensors:
            names[name] = found
        elif any(re.fullmatch(pattern, x) for pattern in table.ignore for x in (name, table.prefix + name)):
            ignored.append(found)
        else:
            problems.append(f"unexpected {found} {shapes[found]}")

    def head(tensor: Tensor) -> str:
        return tensor.parts[0].name.split(".")[0]

    heads = set()
    for name in table.heads:
        own = [tensor for tensor in tensors.values() if head(tensor) == name]
        there = [(tensor, shapes[names[tensor.name]]) for tensor in own if tensor.name in names]
        wrong = [f"{tensor.name} is {shape}, wanted {tensor.shape}" for tensor, shape in there if shape != tensor.shape]
        if own and not there:
            why = "not in the file"
        elif skip and name in skip:
            why = skip[name]
        elif wrong:
            why = wrong[0]
        else:
            continue
        notes.append(f"{name} initialised: {why}")
        heads.add(name)
    for name, tensor in tensors.items():
        if head(tensor) in heads:
            names.pop(name, None)
        elif name not in names:
            problems.append(f"missing {name} {tensor.shape}")
        elif shapes[names[name]] != tensor.shape:
            problems.append(f"{names[name]} is {shapes[names[name]]}, wanted {tensor.shape}")
    initialised = {part.name for tensor in tensors.values() if head(tensor) in heads for part in tensor.parts}
    return Match(names, frozenset(initialised), tuple(ignored), tuple(problems), tuple(notes))
