"""From the words of a command line to a Config, with one line for what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from jaxllm.recipes.help import flat, grouped
from jaxllm.recipes.trainer_flags import counterpart
from jaxllm.run.folder import read_config, versions
from jaxllm.run.seeds import check_seed
from jaxllm.types import InputError

T = TypeVar("T")

STYLE = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.PositionalMetavarFromFieldName,
    tyro.conf.HelptextFromCommentsOff,
)
"""Groups leave no trace in the names of flags; a positional argument is called by its field's name; `grouped` found the
meanings of fields, so that no source is read for them again."""

APART = ("out", "config", "coordinator", "processes", "process_id")
"""Fields that another run's config.json does not pass on."""


def parse(config: type[T], argv: Sequence[str], prog: str | None = None) -> T:
    """The flags as a `config`; `--config FILE` starts from a run's config.json. Raises InputError, for a seed
    out of range too.

    `--version` prints the versions of the packages and exits.
    """
    if "--version" in argv:
        print_versions()
        raise SystemExit(0)
    fields = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    shape: Any = grouped(config, _from_file(config, argv) if "config" in fields else None)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            found, unknown = tyro.cli(shape, args=[*argv], prog=prog, return_unknown_args=True, config=STYLE)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = " ".join(re.sub(r"[╭╮╰╯│─]+|-{4,}", " ", heard.getvalue()).split())  # without the frame around it
        text = re.sub(r"^(Parsing error|Value error|Missing argument) | (Argument|For full) helptext.*", "", text)
        raise InputError(f"{text} (see --help)") from None
    if unknown:
        raise InputError(_unknown(unknown[0], [f"--{name.replace('_', '-')}" for name in fields]))
    parsed = flat(config, found)
    for name in ("seed", "seeds"):  # as every script and command calls them
        given = getattr(parsed, name, ())
        for seed in given if isinstance(given, tuple) else (given,):
            check_seed(seed, f"--{name}")
    return parsed


def print_versions() -> None:
    """Prints the versions of Python and of the packages that decide what a run computes, one a line."""
    for name, version in {**versions(), "Python": platform.python_version()}.items():
        print(f"{name} {version}")


def _unknown(given: str, flags: Sequence[str]) -> str:
    """What to say of a flag that the script does not have: what TRL's is called here, or the nearest there is."""
    name = given.partition("=")[0].replace("_", "-")
    if text := counterpart(name, flags):
        return f"there is no flag {given.partition('=')[0]}: {text} (see --help)"
    near = difflib.get_close_matches(name, flags, 1)
    return f"there is no flag {given}{f'; did you mean {near[0]}?' if near else ''} (see --help)"


def _from_file(config: type[T], argv: Sequence[str]) -> T | None:
    """The config that `--config` names as defaults."""
    path = next((argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--config"), None)
    path = path or next((word.partition("=")[2] for word in argv if word.startswith("--config=")), None)
    if path is None:
        return None
    _, values = read_config(Path(path))
    fields = {f.name for f in dataclasses.fields(config)} - {*APART}  # type: ignore[arg-type]
    if unknown := values.keys() - fields - {*APART}:
        raise InputError(f"--config {path}: this script has no {', '.join(sorted(unknown))}: is it another script's?")
    return config(**{k: tuple(x) if isinstance(x, list) else x for k, x in values.items() if k in fields})
