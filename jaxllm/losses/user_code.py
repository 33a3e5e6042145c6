"""Functions from a user's own file or module, and what went wrong there, in one line that names the remedy."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxllm.losses import own_files
from jaxllm.losses.arguments import suggestion
from jaxllm.types import InputError

IMPORTS = {"jax": "import jax", "jnp": "import jax.numpy as jnp", "np": "import numpy as np"}
"""The import to add for a name that a file uses without importing it, beside the names of `jaxllm.losses`."""


def load(spec: str, flag: str = "--loss") -> Callable[..., Any]:
    """The function of "file.py:function" or "package.module:function". A file is read anew.

    flag: what names it. Raises InputError.
    """
    source, _, name = spec.rpartition(":")
    path = Path(source)
    if source.endswith(".py") and not path.is_file():
        raise InputError(f"{flag} {spec}: there is no file {path}")
    try:
        module = _run(path) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        raise InputError(f"{flag} {spec}: {source} does not import: {cause(error)}") from error
    own_files.FILES.add(getattr(module, "__file__", None) or "")
    if not callable(found := getattr(module, name, None)):
        functions = [key for key, x in vars(module).items() if callable(x) and not key.startswith("_")]
        raise InputError(f"{flag} {spec}: {source} has no function {name!r}{suggestion(name, functions)}")
    return found


def cause(error: BaseException) -> str:
    """An error in one line: type, message, the place in the user's file, and the import that is missing."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    text = traceback.format_exception_only(error)[0].strip().splitlines()[0]  # what follows is JAX's advice
    if place := own_files.place(error):
        text += f" ({place})"
    if isinstance(error, AttributeError) and type(error.obj).__module__.startswith("jaxllm.losses."):
        text += "; `python -m jaxllm losses --fields` lists what there is"
    if isinstance(error, NameError) and error.name:
        exported = importlib.import_module("jaxllm.losses").__all__  # by name, for that module imports this one
        found = f"from jaxllm.losses import {error.name}" if error.name in exported else IMPORTS.get(error.name)
        text += f": add `{found}`" if found else ""
    return text


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("jaxllm_loss_" + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    own_files.FILES.add(str(spec.origin))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left beside the user's file
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
