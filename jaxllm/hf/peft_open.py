"""Reads adapters in PEFT's format onto a base model."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.hf import files, table
from jaxllm.hf.config import read_json
from jaxllm.hf.hub import fetch
from jaxllm.hf.open import place, read_rows
from jaxllm.hf.peft import CONFIG, PREFIX, WEIGHTS
from jaxllm.hf.ties import HEAD, TABLE, are_equal, embedding_of, is_tied_lm
from jaxllm.models import lora
from jaxllm.params import Abstract, ModelSpec
from jaxllm.types import InputError, Params

_TYING = "ensure_weight_tying"
_SUPPORTED = {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "peft_type", _TYING}
_REDUNDANT = {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
"""Fields that the names of the tensors make redundant."""
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
"""Fields of adapter_config.json that do not change the function computed. Of them peft corrects fan_in_fan_out by the
kind of module, and qalora_group_size and megatron_core are read with fields that are refused."""
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of init_lora_weights with which the base was changed too, so that the adapter fits no other."""


class _Layer(NamedTuple):
    """The adapter of one layer of one module of ours: A [in, r], B [r, out]."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def open_adapter(source: str, base: ModelSpec, names: table.Table) -> ModelSpec:
    """The base with the adapters of a folder, run or hub id. Its `load` reads them, and other parameters in the file.

    names: of the base's tensors (`hf.names`). Raises InputError, one line that lists everything that does not fit the
    base or is not supported.
    """
    folder = fetch(source)
    if folder.name == "hf" and not (folder / CONFIG).is_file():  # a run
        folder = folder.parent / "adapter"
    fields = _described(folder)
    entries = files.open_file(folder / WEIGHTS)
    abstract, known = base.graphdef.abstract, set(lora.dense_modules(base.graphdef))
    layout = table.layout(names, abstract)
    layers: dict[str, dict[table.Row, _Layer]] = {}
    whole: dict[str, files.Entry] = {}
    problems = []
    for name, entry in entries.items():
        module, _, kind = name.removeprefix(PREFIX).replace(table.COMPILED, "").partition(".lora_")
        theirs = f"{module}.weight" if kind else module.replace(".base_layer.", ".")
        tensor = layout.get(theirs) or layout.get(names.prefix + theirs)
        if tensor is None and not kind and _is_tied_head(theirs, entry, entries, names, abstract):
            continue  # the checks below are of the table, which serves as the head
        if tensor is None or kind not in ("", "A.weight", "B.weight"):
            problems.append(f"unexpected {name} {entry.shape}")
        elif not kind:
            whole[tensor.name] = entry
            if entry.shape != tensor.shape:
                problems.append(f"{name} is {entry.shape}, wanted {tensor.shape}")
        elif kind == "A.weight":
            other = entries.get(name.replace(".lora_A.", ".lora_B."))
            if wrong := _misfit(tensor, known, name, entry, other):
                problems.append(wrong)
            else:
                assert other is not None
                scale, a_rD, b_Fr = _scale(fields, module, entry.shape[0]), entry.map(), other.map()
                for part in tensor.parts:  # the matrices of ours that it joins
                    layer = _Layer(a_rD.T, b_Fr[part.start : part.stop].T, scale)
                    layers.setdefault(part.name.removesuffix(".kernel"), {})[part.row] = layer
    rows = table.sources({name: layout[name] for name in whole})
    if TABLE in rows and is_tied_lm(abstract) and not fields.get(_TYING):
        problems.append(
            f"it replaces the embeddings of a tied base, and without {_TYING} peft leaves the head as it was; merge it "
            f"into its base with peft, or train it with {_TYING}"
        )
    every = table.sources(layout)
    problems += [f"of {name} only a part" for name, found in rows.items() if len(found) < len(every[name])]
    if problems or not layers:
        listed = "; ".join(problems) or "it holds no adapter"
        raise InputError(f"{folder}: the adapter does not fit, name the base that it was trained on: {listed}")

    arrays: dict[str, np.ndarray] = {}
    each: dict[str, lora.Adapter] = {}
    for key, found in layers.items():
        arrays[key + lora.A], arrays[key + lora.B], scale = _stack(found, abstract[f"{key}.kernel"].shape)
        each[key] = lora.Adapter(arrays[key + lora.A].shape[-1], scale, float(fields.get("lora_dropout", 0.0)))
    # The file of an adapted head also contains the head of the base.
    spec = lora.attach(base, each, rows.keys() - {f"{key}.kernel" for key in each})

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        here = {name: at for name, at in shardings.items() if name in arrays or name in rows}
        found = spec.load_own({name: at for name, at in shardings.items() if name not in here})
        for name, at in here.items():
            if name in arrays:  # copied: the trained array may be overwritten
                copied = functools.partial(lambda x, index: np.array(x[index]), arrays[name])
                found[name] = place(arrays[name].shape, at, copied)
            else:
                found[name] = read_rows(rows[name], spec.graphdef.abstract[name], at, whole)
        return found

    return dataclasses.replace(spec, load=load)


def _described(folder: Path) -> dict[str, Any]:
    """The fields of adapter_config.json. Raises InputError for one that is not supported."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG}; name the folder of an adapter in PEFT's format")
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {fields.get('peft_type')!r}, supported: 'LORA'")
    initial = fields.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_MOVES_BASE):
        raise InputError(f"{path}: {initial} changes the base as well; convert it with peft to a plain LoRA first")
    odd = [
        f"{name}={x!r}"
        for name, x in fields.items()
        if name not in _SUPPORTED | _REDUNDANT | _HARMLESS and x and (name, x) != ("bias", "none")
    ]
    if odd:
        raise InputError(f"{path}: {', '.join(odd)} not supported; use an adapter of matrices alone")
    _check_types(fields, path)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} has no {WEIGHTS}; pickled adapters are not read, write it in safetensors")
    return fields


def _check_types(fields: Mapping[str, Any], path: Path) -> None:
    """Raises InputError for scales and rates that are no numbers, and patterns that are no regular expressions."""
    alphas = fields.get("alpha_pattern") or {}
    numbers = {name: fields[name] for name in ("lora_alpha", "lora_dropout") if name in fields}
    numbers |= {f"alpha_pattern of {name}": x for name, x in alphas.items()} if isinstance(alphas, dict) else {}
    if odd := [f"{name} is {x!r}" for name, x in numbers.items() if type(x) not in (int, float)]:
        raise InputError(f"{path}: {odd[0]}, wanted a number; mend the field")
    try:
        for pattern in dict(alphas):
            re.compile(pattern)
    except (TypeError, ValueError, re.error):
        raise InputError(f"{path}: alpha_pattern is {alphas!r}, wanted patterns and numbers; mend the field") from None


def _is_tied_head(
    name: str, entry: files.Entry, entries: files.Entries, names: table.Table, abstract: Abstract
) -> bool:
    """Whether this is the copy that peft writes of the new embedding table of a tied base, as its head."""
    if name != HEAD or not is_tied_lm(abstract):
        return False
    theirs = embedding_of({x.removeprefix(PREFIX): e for x, e in entries.items()}, names)
    return theirs is not None and are_equal(entry, entries[PREFIX + theirs])


def _scale(fields: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r of a module, or alpha / sqrt(r)."""
    patterns = fields.get("alpha_pattern") or {}
    own = (x for pattern, x in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = next(own, fields.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def _misfit(tensor: table.Tensor, known: set[str], name: str, a: files.Entry, b: files.Entry | None) -> str | None:
    """Why an adapter does not fit this matrix; None where it fits."""
    if odd := [part.name for part in tensor.parts if part.name.removesuffix(".kernel") not in known]:
        return f"{name}: {odd[0]} takes no adapter"
    if b is None:
        return f"{name} has no B beside it"
    out, width = tensor.shape if tensor.rule.transposed else tensor.shape[::-1]
    if a.shape[1:] != (width,) or b.shape != (out, a.shape[0]):
        return f"{name} is {a.shape} and its B {b.shape}, wanted (r, {width}) and ({out}, r)"
    return None


def _stack(layers: Mapping[table.Row, _Layer], kernel: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, float]:
    """A and B of all layers, and one scale. Layers of lower rank or without an adapter are filled up with zeros."""
    *lead, width, out = kernel
    rank, scale = max(layer.a.shape[1] for layer in layers.values()), next(iter(layers.values())).scale
    a, b = np.zeros((*lead, width, rank), np.float32), np.zeros((*lead, rank, out), np.float32)
    for row, layer in layers.items():
        r = layer.a.shape[1]
        a[row][:, :r] = layer.a
        b[row][:r] = layer.b.astype(np.float32) * (layer.scale / scale)
    return a, b, scale
