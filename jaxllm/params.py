"""Models as a static description and a flat dictionary of arrays, and how parameters are selected and made.

NNX describes a model and is used nowhere else: `split` it once, and every transform after that is plain JAX on a
`dict[str, Array]`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxllm import planning
from jaxllm.types import InputError, Params

Rules = tuple[tuple[str, PartitionSpec], ...]
"""Sharding rules of a model: (regular expression of a whole parameter name, spec). Of several rules that match a name,
the first whose mesh axes divide the parameter counts."""

Limits = tuple[tuple[str, str, int], ...]
"""What mesh axes must divide besides the parameters' axes: (mesh axis, name of what it divides, how many)."""

Abstract = dict[str, jax.ShapeDtypeStruct]

Load = Callable[[Mapping[str, jax.sharding.Sharding]], Params]
"""(name -> sharding of the parameters wanted) -> those of them that are on disk, each in its sharding."""


@dataclasses.dataclass(frozen=True)
class GraphDef:
    """The static half of a model: hashable, holds no array."""

    nnx: nnx.GraphDef[Any]
    paths: tuple[tuple[str, tuple[str | int, ...]], ...]
    """(dotted name, path in the module) per parameter."""
    shapes: tuple[tuple[str, tuple[int, ...], str], ...]
    """(dotted name, shape, dtype) per parameter."""
    limits: Limits = ()
    """What mesh axes must divide for this model."""

    @property
    def abstract(self) -> Abstract:
        """The parameters as shapes and dtypes, by name."""
        return {name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for name, shape, dtype in self.shapes}


def split(model: nnx.Module) -> tuple[GraphDef, Params]:
    """A model's static description and its parameters by dotted name (shapes, under `nnx.eval_shape`).

    A module attribute called `body` is left out of the names, so that the parameters of an encoder or decoder have the
    same names under every head.
    """
    graphdef, state = nnx.split(model)
    by_path = dict(_leaves(nnx.to_pure_dict(state)))
    paths = {".".join(str(part) for part in path if part != "body"): path for path in by_path}
    assert len(paths) == len(by_path), "two parameters would have one name"
    flat = {name: by_path[paths[name]] for name in sorted(paths)}
    shapes = tuple((name, tuple(x.shape), str(x.dtype)) for name, x in flat.items())
    found = GraphDef(graphdef, tuple((name, paths[name]) for name in flat), shapes, getattr(model, "limits", ()))
    return found, flat


def bind(graphdef: GraphDef, params: Mapping[str, Any]) -> Any:
    """The model with these parameters (any dtype).

    `nnx.merge` of a dictionary goes by order and ignores names, so names and shapes are checked here first.
    Raises ValueError that lists every parameter that is missing, unexpected or of another shape.
    """
    wanted = {name: shape for name, shape, _ in graphdef.shapes}
    wrong = [f"missing {name} {wanted[name]}" for name in wanted.keys() - params.keys()]
    wrong += [f"unexpected {name}" for name in params.keys() - wanted.keys()]
    wrong += [
        f"{name} is {tuple(x.shape)}, the model has {wanted[name]}"
        for name, x in params.items()
        if name in wanted and tuple(x.shape) != wanted[name]
    ]
    if wrong:
        raise ValueError("parameters do not fit the model: " + "; ".join(sorted(wrong)))
    tree: dict[Any, Any] = {}
    for name, (*parents, leaf) in graphdef.paths:
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = params[name]
    return nnx.merge(graphdef.nnx, tree)


def count(params: Mapping[str, Any]) -> int:
    """How many numbers the parameters (arrays or shapes) hold."""
    return sum(math.prod(x.shape) for x in params.values())


def select(params: Iterable[str], patterns: Iterable[str]) -> dict[str, slice]:
    """The parameters that match patterns, each with the selected slice of its leading axis.

    A pattern is a dotted name where `*` stands for any text; `blocks[:4].*` selects the first four layers of the stack.
    `!pattern` selects every parameter that does not match. A parameter that several patterns match is selected whole if
    one of them selects it whole. Raises InputError for a pattern that matches nothing, a slice after `!`, and two
    different slices of one parameter.
    """
    chosen: dict[str, slice] = {}
    params = list(params)
    for pattern in patterns:
        inverse, text = pattern.startswith("!"), pattern.removeprefix("!")
        part = slice(None)
        if stack := re.search(r"\[(-?\d*):(-?\d*)\]", text):
            if inverse:
                raise InputError(f"pattern {pattern!r}: a slice cannot follow '!'; name the layers that are meant")
            part = slice(*(int(x) if x else None for x in stack.groups()))
            text = text.replace(stack.group(), "")
        regex = ".*".join(map(re.escape, text.split("*")))
        found = [name for name in params if bool(re.fullmatch(regex, name)) != inverse]
        if not found:
            some = ", ".join(sorted(params)[:6])
            raise InputError(f"pattern {pattern!r} matches no parameter; names look like {some} ...")
        for name in found:
            both = (part, chosen.get(name, part))
            if slice(None) not in both and both[0] != both[1]:
                raise InputError(f"pattern {pattern!r}: another slice of {name} is named already; give one range")
            chosen[name] = slice(None) if slice(None) in both else part
    return chosen


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a model is and where its parameters come from, without any array.

    `materialize` makes the arrays, each directly in its sharding. init: key -> all parameters, traceable. load: see
    `Load`; parameters that it does not return are initialised. rules: how parameters are sharded, by name. frozen:
    names of parameters that are neither trained, nor known to the optimizer, nor saved: a teacher, the base under an
    adapter. They are loaded or initialised again when a run continues. Raises ValueError for a frozen name that the
    model does not have.
    """

    graphdef: GraphDef
    init: Callable[[jax.Array], Params]
    rules: Rules
    load: Load | None = None
    frozen: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if unknown := self.frozen - {name for name, *_ in self.graphdef.shapes}:
            raise ValueError(f"frozen, but not in the model: {', '.join(sorted(unknown))}")

    @property
    def trained(self) -> Abstract:
        """The parameters that are trained and saved, as shapes and dtypes, by name."""
        return {name: x for name, x in self.graphdef.abstract.items() if name not in self.frozen}

    def load_own(self, shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        """What `load` finds of the parameters that are this model's; `shardings` may name others, of a larger model."""
        wanted = {name: at for name, at in shardings.items() if name in self.graphdef.abstract}
        return self.load(wanted) if self.load and wanted else {}


def describe(build: Callable[[nnx.Rngs], nnx.Module], rules: Rules) -> ModelSpec:
    """The description of the model that `build` makes, to be initialised; no array is made."""
    graphdef, _ = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return ModelSpec(graphdef, lambda key: split(build(nnx.Rngs(key)))[1], rules)


def stored_as(spec: ModelSpec, dtype: str) -> ModelSpec:
    """The model with its parameters kept in a dtype; what it computes in stays the model's own."""
    shapes = tuple((name, shape, dtype) for name, shape, _ in spec.graphdef.shapes)

    def cast(params: Params) -> Params:
        return {name: x.astype(dtype) for name, x in params.items()}

    def load(wanted: Mapping[str, jax.sharding.Sharding]) -> Params:
        return cast(spec.load_own(wanted))

    graphdef = dataclasses.replace(spec.graphdef, shapes=shapes)
    return dataclasses.replace(spec, graphdef=graphdef, init=lambda key: cast(spec.init(key)), load=load)


def strongly_typed(tree: Any) -> Any:
    """The arrays, none of a weak type, as `jnp.full(8, 1.0)` and numbers of Python have: a step returns them strong.

    The next step would be compiled anew for that.
    """
    return jax.tree.map(lambda x: jnp.asarray(x, t.dtype) if (t := jax.typeof(x)).weak_type else x, tree)


def materialize(spec: ModelSpec, shardings: Mapping[str, jax.sharding.Sharding], seed: int) -> Params:
    """The parameters that `shardings` names, loaded where `spec.load` finds them and otherwise initialised from `seed`.

    Each array is made directly in its sharding. `shardings` need not name all parameters.
    """
    planning.refuse_a_run("makes a model's parameters")
    loaded = spec.load_own(shardings)
    rest = [name for name in shardings if name not in loaded]
    if rest:

        def init() -> Params:
            params = spec.init(jax.random.key(seed))
            return strongly_typed({name: params[name] for name in rest})

        loaded |= jax.jit(init, out_shardings={name: shardings[name] for name in rest})()
    return {name: loaded[name] for name in shardings}


def _leaves(tree: Mapping[Any, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, x in tree.items():
        if isinstance(x, Mapping):
            yield from _leaves(x, (*path, key))
        else:
            yield (*path, key), x
