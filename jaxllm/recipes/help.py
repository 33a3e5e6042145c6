"""Presents a flat Config to tyro in groups, so that `--help` lists each topic's flags with their meanings and defaults.

A field's group is the TOPIC of the class that introduces it, or the one named by `flag`; fields without a topic
come first, by themselves. Its meaning is the docstring below it, in the Config or in the nearest base that has one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import tyro

T = TypeVar("T")

_GROUP = "_group_"
_VERSION = Annotated[bool, tyro.conf.arg(help="Print the versions of jaxllm and its packages and exit.", help_behavior_hint="")]

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
"""The groups of `--help`, in their order."""

WEIGHTS = {"pretrained": "for pretrained weights", "adapters": "for LoRA adapters", "scratch": "from scratch"}
"""What the keys of a script's RECIPES stand for."""


def flag(default: Any, topic: str, *, operational: bool = False) -> Any:
    """A field that stands in the group `topic` of `--help`; operational: it may change when a run continues."""
    return dataclasses.field(default=default, metadata={"topic": topic, "operational": operational})


def grouped(config: type[Any], default: Any = None) -> type[Any]:
    """A dataclass with the fields of `config`, in one nested dataclass per topic; `flat` takes its instances apart.

    default: a `config` whose values are the defaults.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for field in dataclasses.fields(config):
        about = tyro.conf.arg(
            help=None if _has_help(hints[field.name]) else _meaning(config, field.name),
            help_behavior_hint=_hint(config, field, default),
            metavar=_metavar(hints[field.name]),
        )
        own = dataclasses.field() if default is None else dataclasses.field(default=getattr(default, field.name))
        if default is None and field.default is not dataclasses.MISSING:
            own = dataclasses.field(default=field.default)
        elif default is None and field.default_factory is not dataclasses.MISSING:
            own = dataclasses.field(default_factory=field.default_factory)
        groups.setdefault(topic(config, field.name), []).append((field.name, Annotated[hints[field.name], about], own))
    fields = [("version", tyro.conf.FlagCreatePairsOff[_VERSION], dataclasses.field(default=False))]
    fields += groups.pop("", [])
    for name in sorted(groups, key=TOPICS.index):
        group = dataclasses.make_dataclass("Group", groups[name], kw_only=True)
        fields.append((_GROUP + name.replace(" ", "_"), Annotated[group, tyro.conf.arg(name=name)], dataclasses.field()))
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
        if name in vars(cls).get("__annotations__", {}):
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
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = inspect.cleandoc(text.value.value).replace("\n", " ")  # type: ignore[union-attr]
    return found


def _hint(config: type[Any], field: dataclasses.Field[Any], default: Any) -> str | None:
    """The default in words; "" where the meaning tells it; None to leave it to tyro."""
    x = field.default if default is None else getattr(default, field.name)
    if x is None and (recipes := getattr(config, "RECIPES", None)):
        if by := {weights: recipe[field.name] for weights, recipe in recipes.items() if field.name in recipe}:
            if len({*by.values()}) == 1:
                return f"(default: {_number(next(iter(by.values())))})"
            return f"(by default {', '.join(f'{_number(x)} {WEIGHTS[weights]}' for weights, x in by.items())})"
    if isinstance(x, float):
        return f"(default: {_number(x)})"
    return "" if x is None or x in ("", ()) else None


def _number(x: Any) -> str:
    """As one would type it: 5e-5 rather than 5e-05."""
    return re.sub(r"e([-+])0", r"e\1", str(x))


def _has_help(hint: Any) -> bool:
    return any(getattr(more, "help", None) for more in getattr(hint, "__metadata__", ()))


def _metavar(hint: Any) -> str | None:
    """FLOAT for `float | None`: None is what stands for a default, not something to type."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0].__name__.upper() if len(kinds) == 1 and isinstance(kinds[0], type) else None
