"""LoRA for any script: its flags, the model with adapters, and what is written of it at the end.

    class Config(DecoderFlags, LoraFlags): ...
    begin = adapters.apply(begin, config)        # begin.model has adapters, if the flags ask for them
    fitted = fit(begin.model, ...)
    session.finish(begin, fitted, ...)           # hf/ gets the merged model, adapter/ the adapters alone

The base is frozen. It is also the `teacher` of the adapted model, the reference of a preference loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm import hf, planning
from jaxllm.models import lora
from jaxllm.params import ModelSpec, count
from jaxllm.recipes.help import LORA
from jaxllm.recipes.start import Start
from jaxllm.types import InputError, Params


@dataclasses.dataclass(frozen=True)
class LoraFlags:
    """Flags of the scripts that can train adapters in place of all parameters."""

    TOPIC = LORA

    lora_rank: int = 0
    """Rank of the adapters, which are trained with a new head if there is one, and nothing else; 0 for no adapters."""
    lora_alpha: float = 16.0
    """Scale of the adapters: what they add is multiplied by this over the rank."""
    lora_dropout: float = 0.0
    """Dropout rate on the adapters' input."""
    lora_targets: tuple[str, ...] = ()
    """Modules to adapt, for example q_proj, blocks.attn.*, blocks[:4].mlp.up; by default every matrix in the blocks."""
    lora_from: str = ""
    """Folder, run or hub id of an adapter in PEFT's format to start from, with its own rank, alpha, dropout and
    modules; by default adapters begin at zero."""


def apply(begin: Start, config: LoraFlags) -> Start:
    """Adds adapters to the model that training starts from, if the flags ask for them. Raises InputError."""
    given = [f.name for f in dataclasses.fields(LoraFlags) if getattr(config, f.name) != f.default]
    if not config.lora_rank and not config.lora_from:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} without --lora-rank: give a rank, such as 8")
        return begin
    if begin.source is None and planning.current() is None:
        raise InputError("--lora-rank and --lora-from adapt weights that are there: give a trained --model")
    names, _ = hf.names(begin.config, begin.source)
    if config.lora_from:
        if others := [name for name in given if name != "lora_from"]:
            raise InputError(f"--{others[0].replace('_', '-')} with --lora-from: the adapter has its own, leave it out")
        model = hf.open_adapter(config.lora_from, begin.model, names)
    else:
        try:
            wanted = hf.find_targets(config.lora_targets, begin.model, names)
            settings = lora.Config(config.lora_rank, config.lora_alpha, config.lora_dropout, wanted)
            model = lora.add(begin.model, settings, whole=getattr(begin.config, "head_parameters", ()))
        except InputError as error:
            raise InputError(f"--lora-rank {config.lora_rank}: {error}") from None
    each = lora.adapters(model.graphdef)
    note = f"adapters on {len(each)} kinds of matrices: {count(model.trained):,} parameters are trained"
    return dataclasses.replace(begin, model=model, notes=(*begin.notes, note))


def merge(model: ModelSpec, params: Mapping[str, Any]) -> Params:
    """The parameters of the base, with the adapters of `model` merged into its kernels; others are left out."""
    return lora.merge(model.graphdef, {name: params[name] for name in model.graphdef.abstract})


def write(folder: Path, begin: Start, params: Mapping[str, Any]) -> bool:
    """Writes the adapters of `begin.model` in PEFT's format, and returns whether there are any."""
    if not lora.adapters(begin.model.graphdef):
        return False
    assert begin.source is not None
    names, architecture = hf.names(begin.config, begin.source)
    own = {name: params[name] for name in begin.model.graphdef.abstract}
    base = str(begin.source.folder.absolute())
    hf.save_adapter(folder, begin.model, own, names, base=base, architecture=architecture)
    return True
