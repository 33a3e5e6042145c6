"""Reads config.json, a family's way: every field that changes the model is supported or refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from jaxllm.hf.table import Table
from jaxllm.types import InputError

T = TypeVar("T")

PAIRS = "text_pairs"
"""A field of our own: whether a classifier of texts was trained on pairs of them."""

_HARMLESS = frozenset({
    PAIRS, "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "id2label",
    "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "pad_token_id", "bos_token_id",
    "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict", "chunk_size_feed_forward", "gradient_checkpointing", "tie_word_embeddings",
    "initializer_range", "_attn_implementation", "_attn_implementation_internal", "attn_implementation", "auto_map",
})  # fmt: skip
_REFUSED = {
    "quantization_config": "use a checkpoint that is not quantized",
    "is_decoder": "only encoders and causal decoders by their own classes are read",
    "add_cross_attention": "cross attention is not supported",
    "is_encoder_decoder": "encoder-decoder models are not supported",
    "pruned_heads": "pruned heads are not supported",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there; a checkpoint folder needs it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no readable JSON ({error}); download the checkpoint again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, not an object; download the checkpoint again")
    return values


def read_description(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint's folder. Raises InputError, which says what the folder holds instead."""
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").is_file():
            raise InputError(f"{folder} is an adapter; name its base by --model and the adapter by --lora-from")
        if packed := sorted(path.name for path in folder.glob("*.gguf")):
            raise InputError(f"{folder} holds {packed[0]}, and gguf is not read; name the model in safetensors format")
    return read_json(folder / "config.json")


class Fields:
    """The fields of a config.json as `transformers` completes them: old names renewed, defaults filled in.

    A family reads the fields that it supports with `get`, and names with `only` the fields of which it supports some
    values. `finish` then refuses every other field that differs from its default.
    """

    def __init__(self, raw: Mapping[str, Any], where: str = "config.json"):
        from transformers import CONFIG_MAPPING

        self.raw, self.where = dict(raw), where
        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:  # auto_map beside a known one is not needed
            code = "; its auto_map asks for code from the hub, which is never run" if raw.get("auto_map") else ""
            raise InputError(f"{where}: model_type {kind!r} is not known{code}; use a model that transformers knows")
        for name, remedy in _REFUSED.items():
            if raw.get(name):
                raise InputError(f"{where}: {name} is set; {remedy}")
        config = CONFIG_MAPPING[str(kind)]
        try:
            self.values = config.from_dict(self.raw).to_dict()
        except Exception as error:  # its validation raises many kinds
            raise InputError(f"{where}: {' '.join(str(error).split())}; mend the field") from None
        self.defaults = config().to_dict()
        self._read: set[str] = set()

    def get(self, name: str, kind: type[T]) -> T:
        """A field's value. Raises InputError where it is not of this type (an integer is accepted as a float)."""
        self._read.add(name)
        value = self.values.get(name, self.defaults.get(name))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{self.where}: {name} is {value!r}, wanted {kind.__name__}")
        return value

    def get_or(self, name: str, default: T, kind: type[T]) -> T:
        """A field's value as by `get`, or `default` where the field is null or absent."""
        self._read.add(name)
        return default if self.values.get(name, self.defaults.get(name)) is None else self.get(name, kind)

    def only(self, name: str, *allowed: Any) -> None:
        """Raises InputError unless the field is absent, null or one of these values."""
        self._read.add(name)
        value = self.values.get(name)
        if value is not None and value not in allowed:
            choices = " or ".join(map(repr, allowed))
            raise InputError(f"{self.where}: {name} is {value!r}, supported: {choices}; use another checkpoint")

    def choice(self, name: str, table: Mapping[str, T]) -> T:
        """The entry of a table for the field's value. Raises InputError for a value that is not in the table."""
        value = self.get(name, str)
        if value not in table:
            known = ", ".join(table)
            raise InputError(f"{self.where}: {name} is {value!r}, supported: {known}; use another checkpoint")
        return table[value]

    def skip(self, *names: str) -> None:
        """Marks fields that do not change the model."""
        self._read.update(names)

    def finish(self) -> list[str]:
        """Refuses fields that were not read and that `transformers` uses; returns a note on fields unknown to it."""
        strange = []
        for name, value in self.values.items():
            if name in self._read or name in _HARMLESS:
                continue
            if name not in self.defaults:
                if value not in (None, False, "", [], {}):
                    strange.append(name)
            elif value != self.defaults[name]:
                raise InputError(f"{self.where}: {name} is {value!r}, which is not supported; use another checkpoint")
        return [f"config.json: no effect here: {', '.join(strange)}"] if strange else []


@dataclasses.dataclass(frozen=True)
class Family(Generic[T]):
    """How models of one model_type are read and written; T is our configuration class."""

    architecture: str
    """Name of the class in `transformers` that loads what we write."""
    read: Callable[[Fields], T]
    """config.json -> our configuration. Raises InputError for a value that is not supported."""
    write: Callable[[T], dict[str, Any]]
    """Our configuration -> the family's fields of config.json, which `export` reads back to check them. Raises
    InputError for a configuration of another class."""
    table: Callable[[T], Table]
    """The names on disk of a model of this configuration."""


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Names of activations in config.json -> in `models.layers.ACTIVATIONS`."""

_ACTIVATION_NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

Names = Mapping[str, str]
"""Field of a configuration class of ours -> its name in config.json. Several of ours may have one name there."""


def read_fields(fields: Fields, names: Names, kind: type[Any]) -> dict[str, Any]:
    """Reads the fields of our configuration class `kind` from those of config.json that `names` gives for them.

    Raises InputError for a value that is not of the type that `kind` declares, and an activation that is not supported.
    """
    types = get_type_hints(kind)
    return {
        ours: fields.choice(theirs, ACTIVATIONS) if ours.endswith("activation") else fields.get(theirs, types[ours])
        for ours, theirs in names.items()
    }


def write_fields(config: Any, names: Names) -> dict[str, Any]:
    """The inverse of `read_fields`. Of several fields with one name the last is written."""
    values = {theirs: (ours, getattr(config, ours)) for ours, theirs in names.items()}
    return {theirs: _ACTIVATION_NAMES[x] if ours.endswith("activation") else x for theirs, (ours, x) in values.items()}
