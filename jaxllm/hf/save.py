"""Writes checkpoints that `transformers` loads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxllm.hf import files, table
from jaxllm.hf.config import PAIRS, Family, Fields, read_json
from jaxllm.hf.families import TASKS, task_of
from jaxllm.hf.open import PretrainedModel
from jaxllm.models.heads import PROBLEMS
from jaxllm.types import InputError

_COMPUTING = ("dtype", "remat", "unroll", "backend", "labels", "problem", "pairs", "learned")
"""Fields of ours that do not change the function computed, or that `export` writes itself."""

MAX_SHARD_BYTES = 5_000_000_000


def export(
    folder: str | Path,
    params: Mapping[str, Any],
    config: Any,
    tokenizer: Any,
    *,
    source: PretrainedModel[Any] | None = None,
    dtype: str | None = None,
    card: str = "",
    tokens: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes weights, config.json, the tokenizer and a model card, all or nothing.

    params: all parameters of the model by name (an adapted model's after `lora.merge`), sharded or not; gathered one
    tensor at a time. config: the TaggerConfig, decoder Config or ScorerConfig of the model. tokenizer: None to write
    none. source: the checkpoint that the parameters came from, whose config.json, generation_config.json and dtypes are
    kept; without it a complete config.json is written for the first family that can express the configuration. dtype:
    float32, bfloat16 or float16; by default the source's, or float32. card: the text of README.md. tokens: ids of
    special tokens, such as pad_token_id, to write to config.json and generation_config.json in place of the source's.
    max_shard_bytes: the largest file of weights. In a run of several processes each of them calls this, and the first
    writes.

    Raises InputError where no family can express the configuration, or `folder` holds something else.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds something that is no checkpoint; name another folder to export to")
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"export dtype is {dtype!r}, supported: float32, bfloat16, float16")
    family, fields = _config(config, tokenizer, source)
    fields |= tokens or {}
    default = source.dtype if source else "float32"
    kept = source.dtypes if source and not dtype else {}
    fields |= {"architectures": [family.architecture], "dtype": dtype or default}
    tensors = table.layout(family.table(config), params)
    announced = {name: (tensor.shape, dtype or kept.get(name, default)) for name, tensor in tensors.items()}

    def get(name: str) -> np.ndarray:
        return table.join(tensors[name], lambda part, row: host(params[part], row))

    if jax.process_index() > 0:
        for name in tensors:
            get(name)
    else:
        new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        new.mkdir(parents=True)
        files.write(new, announced, get, max_bytes=max_shard_bytes)
        _write_texts(new, fields, tokenizer, source, card, tokens)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def config_json(
    config: Any, tokenizer: Any, source: PretrainedModel[Any] | None = None, tokens: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config.json that `export` writes, with dtype float32. Raises InputError where no family can express it."""
    family, fields = _config(config, tokenizer, source)
    return {**fields, **(tokens or {}), "architectures": [family.architecture], "dtype": "float32"}


def names(config: Any, source: PretrainedModel[Any] | None) -> tuple[table.Table, str]:
    """The names of the tensors that `export` writes, and the class in `transformers` that loads them."""
    family = TASKS[task_of(config)][source.family] if source else _config(config, None, None)[0]
    return family.table(config), family.architecture


def host(x: Any, row: table.Row = ()) -> np.ndarray:
    """An array, or one row of it, gathered to this process's memory; every process of a run must call this."""
    part = x[row] if row else x
    if getattr(part, "is_fully_addressable", True):
        return np.asarray(part)
    return np.asarray(multihost_utils.process_allgather(part, tiled=True))


def _write_texts(
    folder: Path,
    fields: dict[str, Any],
    tokenizer: Any,
    source: PretrainedModel[Any] | None,
    card: str,
    tokens: Mapping[str, Any] | None,
) -> None:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[fields["model_type"]].from_dict(fields).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    there = source.folder / "generation_config.json" if source else None
    if there and there.is_file() and not tokens:
        shutil.copyfile(there, folder / "generation_config.json")
    elif tokens:
        generation = {**(read_json(there) if there and there.is_file() else {}), **tokens}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")


def _config(config: Any, tokenizer: Any, source: PretrainedModel[Any] | None) -> tuple[Family[Any], dict[str, Any]]:
    """The family to write, and the fields of config.json."""
    task = task_of(config)
    families, labels = TASKS[task], dict[str, Any]()
    if task not in ("lm", "masked"):
        labels["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        labels["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if task == "classifier" or (task == "scorer" and config.labels != ("reward",)):
        labels["problem_type"] = PROBLEMS[config.problem]
        labels |= {} if config.pairs is None else {PAIRS: config.pairs}
    candidates = [source.family] if source else list(families)
    for kind in candidates:
        family, fields = families[kind], _base(kind, tokenizer, source) | labels
        if source and _essence(family.read(Fields(fields))) == _essence(config):
            return family, fields  # unchanged, so that every field keeps its spelling
        try:
            fields |= family.write(config)
            back = family.read(Fields(fields))
        except InputError:
            continue
        if _essence(back, dropout=False) == _essence(config, dropout=False):
            return family, fields
    raise InputError(
        f"config.json of {' or '.join(candidates)} cannot express {config}; train a configuration that it can"
    )


def _base(kind: str, tokenizer: Any, source: PretrainedModel[Any] | None) -> dict[str, Any]:
    """The fields of config.json to start from: the source's, or the family's ids of special tokens."""
    if source:
        stale = ("torch_dtype", "transformers_version", "_name_or_path")
        return {name: x for name, x in source.hf_config.items() if name not in stale}
    names = [name for name in Fields({"model_type": kind}).defaults if name.endswith("_token_id")]
    return {"model_type": kind, **{name: getattr(tokenizer, name, None) for name in names}}


def _essence(config: Any, *, dropout: bool = True) -> dict[str, Any]:
    """The fields of a configuration that define the model, flat; dropout matters to its training alone."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values |= {f"{field.name}.{name}": x for name, x in _essence(value, dropout=dropout).items()}
        elif field.name not in _COMPUTING and (dropout or not field.name.endswith("dropout")):
            values[field.name] = value
    return values
