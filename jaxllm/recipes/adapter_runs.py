"""Exports the newest checkpoint of a LoRA run that has no export yet: its adapters, or the merged model."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax

from jaxllm import hf
from jaxllm.checkpoint.store import newest_sound, read_params
from jaxllm.data import tokenizers
from jaxllm.distributed import mesh as meshes
from jaxllm.hf.config import read_json
from jaxllm.hf.families import task_in
from jaxllm.params import materialize
from jaxllm.recipes import adapters
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.chat_start import ChatFlags, start_chat
from jaxllm.recipes.start import Start
from jaxllm.recipes.weights import is_adapted
from jaxllm.types import InputError, Params


@dataclasses.dataclass(frozen=True)
class _Flags(ChatFlags, LoraFlags):
    """The flags of a run that determine its model."""


def open_run(source: str, device: jax.Device) -> tuple[Start, Params, str]:
    """The model that the run started from, with its adapters; all parameters, on a device; and a note on their step.

    Raises InputError where the base or the tokenizer is gone, and without an intact checkpoint.
    """
    run = Path(source).expanduser()
    written = read_json(run / "config.json")
    position = newest_sound(run)
    own = {"model", "tokenizer", "chat_template", *(field.name for field in dataclasses.fields(LoraFlags))}
    flags: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in written["config"].items() if name in own
    }
    if flags["tokenizer"] in tokenizers.KINDS:
        raise InputError(f"{run} has no export (hf/), and its tokenizer was trained on its data; let the run end first")
    config = _Flags(max_length=1, **flags)
    begin = adapters.apply(start_chat(config, (), "", task_in(written.get("model", {}))), config)
    spec, mesh = begin.model, meshes.make_mesh(devices=[device])
    at = meshes.shardings(spec.graphdef.abstract, mesh, spec.rules)
    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at[n]) for n, x in spec.trained.items()}
    frozen = materialize(spec, {name: at[name] for name in spec.frozen}, 0)
    return (
        begin,
        frozen | read_params(run, shapes, position),
        f"the checkpoint of step {position}: the run has no export",
    )


def write_merged(folder: Path, source: str, device: jax.Device, dtype: str, max_shard_bytes: int) -> list[str]:
    """Writes the base with the adapters merged into its weights, and its tokenizer; returns notes."""
    begin, params, note = open_run(source, device)
    hf.export(
        folder, adapters.merge(begin.model, params), begin.config, begin.tokenizer,
        source=begin.source, dtype=dtype or None, tokens=begin.tokens, max_shard_bytes=max_shard_bytes,
    )  # fmt: skip
    return [note, "its adapters are merged into the weights"]


def write_adapter(folder: Path, source: str, device: jax.Device) -> list[str]:
    """Writes a run's adapters for `peft`: those that it exported, or of its newest checkpoint. Raises InputError."""
    done = Path(source).expanduser() / "adapter"
    if (done / "adapter_config.json").is_file():
        shutil.copytree(done, folder, dirs_exist_ok=True)
        return ["the adapters that the run exported"]
    if not is_adapted(source):
        raise InputError(f"--adapter: {source} is no run with adapters; leave --adapter out, or name a run with a rank")
    begin, params, note = open_run(source, device)
    adapters.write(folder, begin, params)
    return [note]
