"""Losses by name, or from a file or a module of one's own.

A loss knows no model and no data format. `resolve` finds one and binds its arguments; whatever is wrong with either is
an error before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxllm.losses import tokens
from jaxllm.types import InputError, Metrics

_LOSSES: dict[str, Callable[..., Metrics]] = {"cross_entropy": tokens.cross_entropy}


@dataclasses.dataclass(frozen=True)
class Loss:
    """A LossFn with its hyperparameters bound."""

    name: str
    function: Callable[..., Metrics]
    arguments: Mapping[str, Any]

    @property
    def couples_batch(self) -> bool:
        """Whether the examples of a batch depend on each other."""
        return getattr(self.function, "couples_batch", False)

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None) -> Metrics:
        return self.function(model, batch, key, **self.arguments)


def names() -> tuple[str, ...]:
    """The losses that have a name."""
    return tuple(_LOSSES)


def resolve(spec: str, /, **arguments: Any) -> Loss:
    """The loss called `spec`, or "file.py:function", or "package.module:function", with these arguments.

    Raises InputError for an unknown name, file, function or argument (with the nearest that exists) and for a value of
    the wrong type. Values may be strings, as typed on a command line.
    """
    function = _find(spec)
    known = {
        p.name: p
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("model", "batch", "key"))
    }
    for name in arguments:
        if name not in known:
            raise InputError(f"loss {spec!r} has no argument {name!r}{_nearest(name, known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise InputError(f"loss {spec!r} needs {', '.join(missing)}: give it as --loss-args {missing[0]}=VALUE")
    return Loss(spec, function, {name: _convert(spec, known[name], x) for name, x in arguments.items()})


def _find(spec: str) -> Callable[..., Metrics]:
    if ":" not in spec:
        if spec not in _LOSSES:
            raise InputError(
                f"no loss is called {spec!r}{_nearest(spec, _LOSSES)}; one of your own is FILE.py:FUNCTION"
            )
        return _LOSSES[spec]
    source, _, name = spec.rpartition(":")
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"--loss {spec}: there is no file {path}")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None
        module = importlib.util.module_from_spec(module_spec)
        load = lambda: module_spec.loader.exec_module(module)  # type: ignore[union-attr]  # noqa: E731
    else:
        module, load = None, lambda: importlib.import_module(source)
    try:
        loaded = load()
    except Exception as error:
        raise InputError(f"--loss {spec}: {source} does not import: {type(error).__name__}: {error}") from error
    module = module or loaded
    if not callable(found := getattr(module, name, None)):
        functions = [key for key, x in vars(module).items() if callable(x) and not key.startswith("_")]
        raise InputError(f"--loss {spec}: {source} has no function {name!r}{_nearest(name, functions)}")
    return found


def _convert(spec: str, parameter: inspect.Parameter, x: Any) -> Any:
    kind = type(parameter.default)
    if not isinstance(x, str) or kind in (str, type(None)) or parameter.default is parameter.empty:
        return x
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[x.lower()]
        return kind(x)
    except (KeyError, ValueError):
        raise InputError(f"loss {spec!r}: {parameter.name}={x!r} is not a {kind.__name__}") from None


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}" if known else ""
