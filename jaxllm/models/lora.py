"""Low-rank adapters (LoRA, Hu et al. 2021) on the `Dense` layers of any model.

An adapter wraps its Dense and keeps the Dense's parameter names: beside `blocks.attn.q.kernel` [L, D, F] there are then
`blocks.attn.q.lora_a` [L, D, r] and `blocks.attn.q.lora_b` [L, r, F], stacked as the kernel is. The base is frozen, so
optimizer and checkpoint hold the adapters alone. Without its adapters it is the `teacher`: a reference model that needs
no further memory.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.models.layers import Dense, dense, dropout
from jaxllm.params import GraphDef, ModelSpec, Rules, bind, select, split
from jaxllm.types import Batch, InputError, Metrics, Params

A, B = ".lora_a", ".lora_b"
"""Suffixes of the names of an adapter's parameters, after the name of its module."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How to adapt a model. Raises InputError."""

    rank: int
    """r: columns of A and rows of B."""
    alpha: float = 16.0
    """The adapter's output is scaled by alpha / r."""
    dropout: float = 0.0
    """Rate, on the adapter's input."""
    targets: tuple[str, ...] = ()
    """Patterns of modules, such as `blocks.attn.q` or `blocks[:4].mlp.*`; none for every matrix in the blocks."""
    stabilised: bool = False
    """Scale by alpha / sqrt(r) instead (rsLoRA, Kalajdzievski 2023)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"an adapter of rank {self.rank}: at least 1 is needed")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"an adapter's alpha of {self.alpha}: it must be above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"an adapter's dropout of {self.dropout}: give a rate from 0 to below 1")

    @property
    def scale(self) -> float:
        """The factor on the adapter's output."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One module's adapter."""

    rank: int
    scale: float
    dropout: float = 0.0
    layers: slice = dataclasses.field(default_factory=lambda: slice(None))
    """The layers that are adapted; A and B of the others are 0 and stay so in training."""


class Adapted(nnx.Module):
    """A Dense and its adapter: y + scale (dropout(x) A) B (Hu et al. 2021, equation 3)."""

    def __init__(self, inner: Dense, adapter: Adapter):
        *lead, d_in, d_out = inner.kernel.shape
        self.body = inner
        self.lora_a: Any = nnx.Param(jax.ShapeDtypeStruct((*lead, d_in, adapter.rank), jnp.float32))
        self.lora_b: Any = nnx.Param(jax.ShapeDtypeStruct((*lead, adapter.rank, d_out), jnp.float32))
        self.scale, self.rate = adapter.scale, adapter.dropout
        self.key: Any = None

    def __call__(self, x: jax.Array) -> jax.Array:
        low = dense(dropout(x, self.rate, None if self.key is None else self.key[...]), self.lora_a[...])
        return self.body(x) + self.scale * dense(low, self.lora_b[...])


class Lora(nnx.Module):
    """A model with some of its Dense replaced by Adapted; it has the model's attributes, and a `teacher`."""

    def __init__(self, adapted: Any):
        self.body = adapted

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The model's hidden_BTD and metrics, with dropout in the adapters too."""
        if key is None:
            return self.body.hidden(batch)
        key, own = jax.random.split(key)
        return _with_keys(self.body, own).hidden(batch, key)

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """The model's logits_NV; an adapter in the head has no dropout."""
        return self.body.head(hidden_ND)

    @property
    def teacher(self) -> Any:
        """The same model without adapters, with the same arrays."""
        bare = _copy(self.body)
        for _, parent, attribute, module in list(_modules(bare)):
            if isinstance(module, Adapted):
                setattr(parent, attribute, module.body)
        return bare

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "body":
            raise AttributeError(name)
        return getattr(self.body, name)


def add(base: ModelSpec, config: Config, *, whole: Collection[str] = ()) -> ModelSpec:
    """Adds adapters to a model. At first they change nothing: A is uniform, B zero (Hu et al. 2021, section 4.1).

    whole: patterns (`params.select`) of base parameters that are trained too, such as a new head's; the others are
    frozen. Raises InputError for a target that names no Dense, and for one among `whole`.
    """
    found = targets(base.graphdef, config.targets)
    trained = set(select(base.graphdef.abstract, whole)) if whole else set()
    if both := sorted(name for name in found if f"{name}.kernel" in trained):
        raise InputError(f"{both[0]} is trained as it is: leave it out of the targets of the adapters")
    each = {name: Adapter(config.rank, config.scale, config.dropout, part) for name, part in found.items()}
    return attach(base, each, trained)


def targets(graphdef: GraphDef, patterns: Collection[str]) -> dict[str, slice]:
    """The modules that patterns name, each with its layers; see `Config.targets`. Raises InputError."""
    known = dense_modules(graphdef)
    if not patterns:  # all but routers, whose few numbers decide more than an adapter should
        return {name: slice(None) for name in known if re.match(r"blocks\.(?!.*router)", name)}
    return select(known, patterns)


def dense_modules(graphdef: GraphDef) -> list[str]:
    """The names of the modules that can have an adapter."""
    model = bind(graphdef, graphdef.abstract)
    return sorted(name for name, _, _, module in _modules(model) if isinstance(module, Dense))


def adapters(graphdef: GraphDef) -> dict[str, Adapter]:
    """The modules that have an adapter, by name."""
    model = bind(graphdef, graphdef.abstract)
    found = {name: module for name, _, _, module in _modules(model) if isinstance(module, Adapted)}
    return {name: Adapter(module.lora_a.shape[-1], module.scale, module.rate) for name, module in found.items()}


def attach(base: ModelSpec, each: Mapping[str, Adapter], trained: Collection[str]) -> ModelSpec:
    """The model with an adapter on each of these modules; the base is frozen except the parameters in `trained`."""
    model, abstract = bind(base.graphdef, base.graphdef.abstract), base.graphdef.abstract
    for name, parent, attribute, module in list(_modules(model)):
        if name in each:
            setattr(parent, attribute, Adapted(module, each[name]))
    graphdef, _ = split(Lora(model))
    shapes = graphdef.abstract

    def init(key: jax.Array) -> Params:
        params = base.init(key)
        own = jax.random.fold_in(key, zlib.crc32(b"lora"))
        for i, (name, adapter) in enumerate(sorted(each.items())):
            a, b = shapes[name + A], shapes[name + B]
            bound = a.shape[-2] ** -0.5
            x = jax.random.uniform(jax.random.fold_in(own, i), a.shape, a.dtype, -bound, bound)
            params[name + A] = jnp.zeros_like(x).at[adapter.layers].set(x[adapter.layers])
            params[name + B] = jnp.zeros(b.shape, b.dtype)
        return params

    frozen = base.frozen | (abstract.keys() - set(trained))
    return ModelSpec(graphdef, init, (*_rules(base, each), *base.rules), base.load_own, frozenset(frozen))


def merge(graphdef: GraphDef, params: Mapping[str, jax.Array]) -> Params:
    """The base's parameters, with scale A B added to each adapted kernel; of a model without adapters, the same."""
    merged = {name: x for name, x in params.items() if not name.endswith((A, B))}
    for name, adapter in adapters(graphdef).items():
        kernel = params[f"{name}.kernel"]
        join = jax.jit(_merged, out_shardings=kernel.sharding)
        merged[f"{name}.kernel"] = join(kernel, params[name + A], params[name + B], adapter.scale)
    return merged


def _merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: Any) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST
    return kernel + scale * jnp.einsum("...dr,...rf->...df", a, b, precision=exact).astype(kernel.dtype)


def _rules(base: ModelSpec, modules: Collection[str]) -> Rules:
    """Shards A as the kernel's rows and B as its columns are, and both over fsdp where it divides them."""
    rules: list[tuple[str, P]] = []
    for name in modules:
        kernel = f"{name}.kernel"
        for spec in [spec for regex, spec in base.rules if re.fullmatch(regex, kernel)]:
            axes: tuple[Any, ...] = (*spec, *(None,) * (base.graphdef.abstract[kernel].ndim - len(spec)))
            *lead, rows, columns = axes
            rules += [(re.escape(name + A), P(*lead, cut, None)) for cut in (_with_fsdp(rows), rows)]
            rules += [(re.escape(name + B), P(*lead, None, cut)) for cut in (_with_fsdp(columns), columns)]
    return tuple(rules)


def _with_fsdp(axes: Any) -> Any:
    """The mesh axes of a spec's entry, and fsdp."""
    each = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    return axes if "fsdp" in each else (*each, "fsdp")


def _modules(module: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, str, Any]]:
    """All modules inside a module: (name, parent, attribute, module)."""
    for attribute, child in vars(module).items():
        if isinstance(child, nnx.Module):
            below = path if attribute == "body" else (*path, attribute)
            yield ".".join(below), module, attribute, child
            yield from _modules(child, below)


def _copy(module: Any) -> Any:
    """Another module with the same arrays."""
    return nnx.merge(*nnx.split(module))


def _with_keys(module: Any, key: jax.Array) -> Any:
    """A copy whose adapters have keys for their dropout, one per layer of the stack."""
    keyed = _copy(module)
    found = [m for _, _, _, m in _modules(keyed) if isinstance(m, Adapted) and m.rate]
    for i, adapted in enumerate(found):
        own, lead = jax.random.fold_in(key, i), adapted.lora_a.shape[:-2]
        adapted.key = nnx.data(nnx.Variable(jax.random.split(own, lead) if lead else own))
    return keyed
