"""Finds the configuration that `--model` names where training starts from scratch: a preset's, or a JSON file's."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from jaxllm import hf
from jaxllm.hf.config import Fields, read_json
from jaxllm.hf.families import LANGUAGE_MODELS
from jaxllm.models.decoder import PRESETS, Config
from jaxllm.models.rope import Scaling
from jaxllm.types import InputError


def find_architecture(model: str) -> Config | None:
    """The configuration of a preset or of a .json file, with the fields of ours or of Hugging Face's; None for weights.

    Raises InputError for a file that does not describe a decoder, and for a name that is not a preset, a path or an id
    on the hub.
    """
    if model in PRESETS:
        return PRESETS[model]
    if model.endswith(".json"):
        values = read_json(Path(model).expanduser())
        if kind := values.get("model_type"):
            if kind not in LANGUAGE_MODELS:
                raise InputError(f"{model}: model_type is {kind!r}, supported: {', '.join(LANGUAGE_MODELS)}")
            return LANGUAGE_MODELS[kind].read(Fields(values, model))
        return _of_fields(values, model)
    near = difflib.get_close_matches(model, PRESETS, 3, cutoff=0.7)
    if near and not Path(model).exists():
        raise InputError(f"--model {model}: there is no such preset; did you mean {' or '.join(near)}?")
    if "/" not in model and not Path(model).exists():
        try:
            hf.fetch(model, weights=False)
        except InputError as error:
            raise InputError(f"--model {model}: no preset ({', '.join(PRESETS)}), and {error}") from None
    return None


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def _of_fields(values: dict[str, Any], where: str) -> Config:
    """A configuration from a JSON object of its fields."""
    _known(values, Config, where)
    needed = [field.name for field in dataclasses.fields(Config) if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: it lacks {', '.join(missing)}; add them")
    whole = dict(values)
    if "windows" in whole:
        if not isinstance(whole["windows"], list) or any(type(x) is not int for x in whole["windows"]):
            raise InputError(f"{where}: windows is {whole['windows']!r}, wanted a list of numbers of tokens")
        whole["windows"] = tuple(whole["windows"])
    if "rope_scaling" in whole:
        if not isinstance(whole["rope_scaling"], dict):
            raise InputError(f"{where}: rope_scaling is {whole['rope_scaling']!r}, wanted an object with its kind")
        _known(whole["rope_scaling"], Scaling, f"{where}: rope_scaling")
        whole["rope_scaling"] = Scaling(**whole["rope_scaling"])
    try:
        return Config(**whole)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _known(values: dict[str, Any], kind: type[Any], where: str) -> None:
    """Raises InputError for a name that is not a field, and for a value of another type."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, x in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            raise InputError(f"{where}: there is no field {name!r}{f'; did you mean {near[0]}?' if near else ''}")
        if fields[name] in _KINDS and type(x) not in _KINDS[fields[name]]:
            raise InputError(f"{where}: {name} is {x!r}, wanted {fields[name]}")
