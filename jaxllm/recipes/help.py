"""Presents a flat Config to tyro in groups, so that `--help` lists each topic's flags with their meanings and defaults.

A field's group is the TOPIC of the class that introduces it, or the one named by `flag`; fields without a topic
come first, by themselves. Its meaning is the docstring below it, in the Config or in the nearest base that has one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import tyro

T = TypeVar("T")

_GROUP = "_group_"
_ABOUT_VERSION = tyro.conf.arg(help="Print the versions of jaxllm and its packages and exit.", help_behavior_hint="")
_VERSION = tyro.conf.FlagCreatePairsOff[Annotated[bool, _ABOUT_VERSION]]

MODEL = "model"
DATA = "data"
LOSS = "loss"
OPTIMISATION = "optimisation"
LORA = "LoRA"
DEVICES = "devices"
EVALUATION = "evaluation"
SAMPLING = "sampling"
RUN = "run folder and checkpoints"
LOGGING = "logging"
TOPICS = (MODEL, DATA, LOSS, OPTIMISATION, LORA, DEVICES, EVALUATION, SAMPLING, RUN, LOGGING)
"""The groups of `--help`, in this order; a script's own topics come after them."""

WEIGHTS = {"pretrained": "for pretrained weights", "adapters": "for LoRA adapters", "scratch": "from scratch"}
"""What the keys of a script's RECIPES stand for; other keys are printed as they are."""


def flag(default: Any, topic: str, *, operational: bool = False) -> Any:
    """A field that stands in the group `topic` of `--help`; operational: it may change when a run continues."""
    return dataclasses.field(default=default, metadata={"topic": topic, "operational": operational})


def grouped(config: type[Any], default: Any = None) -> type[Any]:
    """A dataclass with the fields of `config`, in one nested dataclass per topic; `flat` takes its instances apart.

    default: a `config` whose values are the defaults.
    """
    return _shape(config, default) if default is not None else _shape_without_values(config)  # type: ignore[arg-type]


@functools.cache
def _shape_without_values(config: type[Any]) -> type[Any]:
    return _shape(config, None)


def _shape(config: type[Any], default: Any) -> type[Any]:
    hints = typing.get_type_hints(config, include_extras=True)
    groups: dict[str, list[Any]] = {"": [("version", _VERSION, dataclasses.field(default=False))]}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        described = any(getattr(more, "help", None) for more in getattr(hint, "__metadata__", ()))
        about = tyro.conf.arg(
            help=None if described else _meaning(config, field.name),
            help_behavior_hint=_hint(config, field, default),
            metavar=_metavar(hint),
        )
        if default is None:
            own = dataclasses.field(default=field.default, default_factory=field.default_factory)
        else:
            own = dataclasses.field(default=getattr(default, field.name))
        groups.setdefault(topic(config, field.name), []).append((field.name, Annotated[hint, about], own))
    fields = groups.pop("")
    for name in sorted(groups, key=lambda name: TOPICS.index(name) if name in TOPICS else len(TOPICS)):
        group = dataclasses.make_dataclass("Group", groups[name], kw_only=True)
        fields.append((_GROUP + name.replace(" ", "_"), Annotated[group, tyro.conf.arg(name=name)]))
    shape = dataclasses.make_dataclass(config.__name__, fields, kw_only=True)
    shape.__doc__ = inspect.getdoc(config)
    return shape


def flat(config: type[T], found: Any) -> T:
    """The `config` that an instance of `grouped(config)` stands for."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        x = getattr(found, field.name)
        values |= vars(x) if field.name.startswith(_GROUP) else {field.name: x}
    del values["version"]
    return config(**values)


def topic(config: type[Any], name: str) -> str:
    """The group that a field stands in, "" for none."""
    for cls in reversed(config.__mro__):  # from the class that introduces it
        if name in inspect.get_annotations(cls):
            metadata = cls.__dataclass_fields__[name].metadata  # type: ignore[attr-defined]
            return metadata.get("topic") or vars(cls).get("TOPIC", "")
    return ""


def _meaning(config: type[Any], name: str) -> str | None:
    return next((texts[name] for cls in config.__mro__ if name in (texts := _docstrings(cls))), None)


@functools.cache
def _docstrings(cls: type[Any]) -> Mapping[str, str]:
    """The strings that stand below the fields of a class in its source, by field."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError):  # typed in, or built in
        return {}
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def _hint(config: type[Any], field: dataclasses.Field[Any], default: Any) -> str | None:
    """The default in words; "" where the meaning tells it; None to leave it to tyro."""
    x = field.default if default is None else getattr(default, field.name)
    if x is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "(required)"
    recipes: Mapping[str, Mapping[str, Any]] = getattr(config, "RECIPES", {})
    by = {weights: _typed(recipe[field.name]) for weights, recipe in recipes.items() if field.name in recipe}
    if x is None and by:
        same = len({*by.values()}) == 1
        each = ", ".join(f"{value} {WEIGHTS.get(weights, weights)}" for weights, value in by.items())
        return f"(default: {next(iter(by.values()))})" if same else f"(by default {each})"
    if isinstance(x, float):
        return f"(default: {_typed(x)})"
    return "" if x is None or x in ("", ()) else None


def _typed(x: Any) -> str:
    """A value as one would type it: 2e-3 rather than 0.002, 1800 rather than 1800.0."""
    if not isinstance(x, float):
        return str(x)
    if 0 < abs(x) < 0.01:
        mantissa, exponent = f"{x:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{x:g}"


def _metavar(hint: Any) -> str | None:
    """FLOAT for `float | None`: None is what stands for a default, not something to type."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0].__name__.upper() if len(kinds) == 1 and isinstance(kinds[0], type) else None
