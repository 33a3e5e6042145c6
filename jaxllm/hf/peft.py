"""Writes adapters in PEFT's format, adapter_config.json and adapter_model.safetensors, without PyTorch.

On disk each layer has a separate A [r, in] and B [out, r], under the name of the module in `transformers`; here they
are stacked (`models/lora.py`). Where the base's file joins several of our matrices in one (GPT-2's c_attn), the adapter
of the joined matrix is read as one adapter for each of ours, with equal A, and ours are written as one with a
block-diagonal B.
"""

from __future__ import annotations

import collections
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm.hf import files, table, ties
from jaxllm.hf.save import host
from jaxllm.models import lora
from jaxllm.params import Abstract, ModelSpec, select
from jaxllm.types import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""The prefix of every name in an adapter's file."""

TASKS = {"ForTokenClassification": "TOKEN_CLS", "ForSequenceClassification": "SEQ_CLS"}
"""Suffix of an architecture's name -> PEFT's task_type; of any other it is CAUSAL_LM."""


def modules(names: table.Table, abstract: Abstract) -> dict[str, table.Tensor]:
    """The matrices on disk by name of their module in `transformers`."""
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in table.layout(names, abstract).items()
        if name.endswith(".weight") and tensor.parts[0].name.endswith(".kernel")
    }


def find_targets(patterns: Collection[str], spec: ModelSpec, names: table.Table) -> tuple[str, ...]:
    """Patterns of our modules, from patterns in our names or in Hugging Face's: `q_proj`, `self_attn.q_proj`.

    A name of theirs means every module whose name ends with it, as in PEFT; `all-linear` means every matrix in the
    blocks. Raises InputError for a name of no module.
    """
    if set(patterns) == {"all-linear"}:
        return ()
    known = lora.dense_modules(spec.graphdef)
    theirs = modules(names, spec.graphdef.abstract)
    found: list[str] = []
    for pattern in patterns:
        meant = [tensor for name, tensor in theirs.items() if f".{name}".endswith(f".{pattern}")]
        ours = {part.name.removesuffix(".kernel"): None for tensor in meant for part in tensor.parts}
        try:
            found += ours or (select(known, [pattern]) and [pattern])
        except InputError:
            kinds = sorted({re.sub(r".*\.\d+\.", "", name) for name in theirs})
            raise InputError(
                f"no module is called {pattern!r}; there are {', '.join(known)}, or in Hugging Face's words "
                f"{', '.join(kinds)}"
            ) from None
        if odd := sorted(ours.keys() - set(known)):
            raise InputError(f"{pattern!r} means {odd[0]}, which is no plain matrix and takes no adapter; leave it out")
    return tuple(dict.fromkeys(found))


def save_adapter(
    folder: Path, spec: ModelSpec, params: Mapping[str, Any], names: table.Table, *, base: str, architecture: str
) -> None:
    """Writes the adapters of a model, and its other trained parameters, as `peft` loads them, all or nothing.

    spec: the model with its adapters. params: all its parameters, or the trained ones. names: of the base's tensors
    (`hf.names`). base: its id or folder. architecture: the class in `transformers` that the adapter is for. In a run of
    several processes each of them calls this.

    Raises InputError where the model has no adapter, and where a tensor on disk joins parameters of which only some
    were trained.
    """
    each = lora.adapters(spec.graphdef)
    if not each:
        raise InputError("the model has no adapter to write")
    own = {name: host(params[name]) for name in spec.trained}
    abstract = {name: x for name, x in spec.graphdef.abstract.items() if not name.endswith((lora.A, lora.B))}
    tensors: dict[str, np.ndarray] = {}
    settings: dict[str, tuple[int, float]] = {}
    known = modules(names, abstract)
    for module, tensor in known.items():
        if (joined := _join(tensor, each, own)) is not None:
            a_rD, b_Fr, scale = joined
            tensors |= {f"{PREFIX}{module}.lora_A.weight": a_rD, f"{PREFIX}{module}.lora_B.weight": b_Fr}
            settings[module] = len(a_rD), scale * len(a_rD)
    whole = _whole(own, names, abstract)
    tied = ties.TABLE in own and ties.is_tied_lm(abstract)
    tensors |= {PREFIX + name: x for name, x in whole.items()}
    if tied:  # peft reads the table a second time, under the name of the head
        tensors[PREFIX + ties.HEAD] = own[ties.TABLE]
    (rank, alpha), _ = collections.Counter(settings.values()).most_common(1)[0]
    others = {re.escape(module): x for module, x in settings.items() if x != (rank, alpha)}
    fields = {
        "peft_type": "LORA",
        "task_type": next((task for end, task in TASKS.items() if architecture.endswith(end)), "CAUSAL_LM"),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": next(iter(each.values())).dropout,
        "bias": "none",
        "fan_in_fan_out": not all(known[module].rule.transposed for module in settings),
        "target_modules": _suffixes(settings, known),
        "ensure_weight_tying": tied,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in whole}) or None,
        "rank_pattern": {module: r for module, (r, _) in others.items()},
        "alpha_pattern": {module: _plain(x) for module, (_, x) in others.items()},
    }
    if jax.process_index() > 0:
        return
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    files.write_file(new / WEIGHTS, {n: (x.shape, x.dtype.name) for n, x in tensors.items()}, tensors.__getitem__)
    (new / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _join(
    tensor: table.Tensor, each: Mapping[str, lora.Adapter], own: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """The adapter of one matrix on disk: A [r, in], B [out, r] and its scale. None where the matrix has none."""
    parts = [(part.name.removesuffix(".kernel"), part) for part in tensor.parts]
    adapted = [(name, part) for name, part in parts if name in each and own[name + lora.A][part.row].any()]
    if not adapted:
        return None
    scale = each[adapted[0][0]].scale
    a_rD = np.concatenate([own[name + lora.A][part.row].T for name, part in adapted])
    b_Fr = np.zeros((parts[-1][1].stop, len(a_rD)), a_rD.dtype)
    column = 0
    for name, part in adapted:
        b = own[name + lora.B][part.row].T * (each[name].scale / scale)
        b_Fr[part.start : part.stop, column : column + b.shape[1]] = b
        column += b.shape[1]
    return a_rD, b_Fr, scale


def _whole(own: Mapping[str, np.ndarray], names: table.Table, abstract: Abstract) -> dict[str, np.ndarray]:
    """The tensors on disk of the base's parameters that were trained."""
    trained = {name for name in own if not name.endswith((lora.A, lora.B))}
    found = {}
    for name, tensor in table.layout(names, abstract).items():
        parts = {part.name for part in tensor.parts}
        if parts <= trained:
            found[name] = table.join(tensor, lambda part, row: own[part][row] if row else own[part])
        elif parts & trained:
            raise InputError(f"{name} joins {', '.join(sorted(parts))}, of which only some were trained; train all")
    return found


def _suffixes(wanted: Collection[str], known: Collection[str]) -> list[str]:
    """The shortest suffixes that select these modules and no others in PEFT, which adapts all that end with one."""
    kind = {name: re.sub(r"\.\d+\.", ".{}.", name) for name in known}
    found: dict[str, None] = {}
    for name in wanted:
        words = name.split(".")
        for n in range(1, len(words) + 1):
            suffix = ".".join(words[-n:])
            meant = {other for other in known if f".{other}".endswith(f".{suffix}")}
            # A last word such as `dense` may also be that of a module without a counterpart here.
            if meant <= set(wanted) and len({kind[other] for other in meant}) == 1:
                break
        found[suffix] = None
    return list(found)


def _plain(x: float) -> float | int:
    return int(x) if x == int(x) else x
