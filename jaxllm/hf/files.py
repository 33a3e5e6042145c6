"""Reads safetensors files lazily, through memory maps, and writes them one tensor at a time.

A file is eight bytes of length, a JSON header of names, dtypes, shapes and offsets, and the tensors end to end
(https://github.com/huggingface/safetensors). The headers alone are checked, before any tensor is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxllm.hf.config import read_json
from jaxllm.types import InputError

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32,
    "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip
_CODES = {np.dtype(dtype).name: code for code, dtype in _DTYPES.items()}

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CRF = "crf.safetensors"
"""Tensors of ours, called crf.*, that `transformers` has no place for: it does not look into this file."""
_AGAIN = "download it again"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    file: Path
    dtype: str
    """numpy's name for it, such as float32 or bfloat16."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""

    def map(self) -> np.ndarray:
        """The tensor as a read-only view of the file; only the parts that are used are read from disk."""
        dtype = np.dtype(_DTYPES[_CODES[self.dtype]])
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        return np.memmap(self.file, dtype, mode="r", offset=self.start, shape=self.shape)


Entries = dict[str, Entry]


def open_file(path: Path) -> Entries:
    """The tensors of one file. Raises InputError where the file is truncated or its header is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                file.seek(0)
                what = "a git-lfs pointer" if file.read(40).startswith(b"version https://git-lfs") else "truncated"
                raise InputError(f"{path} is {what} or no safetensors file; {_AGAIN}")
            text = file.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from None
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        found = [(name, x["dtype"], tuple(x["shape"]), tuple(x["data_offsets"])) for name, x in header.items()]
        found.sort(key=lambda x: x[3])
        end = 0
        for name, code, shape, (start, stop) in found:
            if code not in _DTYPES:
                raise InputError(f"{path}: {name} is of dtype {code}, which is not read; use an unquantized checkpoint")
            whole = all(isinstance(n, int) and n >= 0 for n in shape)
            if not whole or start != end or stop - start != math.prod(shape) * np.dtype(_DTYPES[code]).itemsize:
                raise InputError(f"{path}: {name} does not lie where its header says; {_AGAIN}")
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has a broken header, it is no safetensors file; {_AGAIN}") from None
    if 8 + length + end != size:
        raise InputError(f"{path} has {size:,} bytes, its header promises {8 + length + end:,}: truncated; {_AGAIN}")
    base = 8 + length
    return {name: Entry(path, np.dtype(_DTYPES[code]).name, shape, base + at[0]) for name, code, shape, at in found}


def open_folder(folder: Path) -> Entries:
    """The tensors of a checkpoint, `model.safetensors` or else shards with an index, as `transformers` chooses.

    With them those of CRF, where it is there. Raises InputError.
    """
    beside = open_file(folder / CRF) if (folder / CRF).is_file() else {}
    if (folder / SINGLE).is_file():
        return {**open_file(folder / SINGLE), **beside}
    if (folder / INDEX).is_file():
        return {**_open_shards(folder), **beside}
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    if others:
        raise InputError(f"{folder} has {others[0]} but neither {SINGLE} nor {INDEX}; download the whole checkpoint")
    if pickles:
        raise InputError(
            f"{folder} has only pickled weights ({pickles[0]}), and reading pickle runs the code in it; convert them "
            f"to safetensors first (on the hub: https://huggingface.co/spaces/safetensors/convert)"
        )
    raise InputError(f"{folder} has no {SINGLE}; name a checkpoint in safetensors format (pickled ones are not read)")


def unread(folder: Path, entries: Entries) -> list[str]:
    """The names of the safetensors files and the index in a folder that these tensors do not come from."""
    read = {entry.file.name for entry in entries.values()}
    beside = [INDEX] if SINGLE in read and (folder / INDEX).is_file() else []
    return sorted([*beside, *(path.name for path in folder.glob("*.safetensors") if path.name not in read)])


def _open_shards(folder: Path) -> Entries:
    path = folder / INDEX
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise InputError(f"{path} has no weight_map from names to files; {_AGAIN}")
    entries: Entries = {}
    for shard in sorted(set(listed.values())):
        if Path(shard).name != shard:
            raise InputError(f"{path} points outside its folder, to {shard!r}; do not trust this checkpoint")
        if not (folder / shard).is_file():
            raise InputError(f"{path} names {shard}, which is not there; download the missing shard")
        own = open_file(folder / shard)
        if both := sorted(own.keys() & entries.keys()):
            raise InputError(f"{both[0]} is in {shard} and in {entries[both[0]].file.name}; delete stale shards")
        entries |= own
    if lost := sorted(
        name for name, shard in listed.items() if name not in entries or entries[name].file.name != shard
    ):
        raise InputError(f"{path}: {lost[0]} is not in {listed[lost[0]]} ({len(lost)} such); {_AGAIN}")
    return entries


Announced = Mapping[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, numpy's name of the dtype) of tensors to write, in the order of the file."""


def write(folder: Path, tensors: Announced, get: Callable[[str], np.ndarray], *, max_bytes: int) -> None:
    """Writes `model.safetensors`, or shards of at most `max_bytes` (more only for a single tensor) with an index.

    get: name -> array, cast here to the announced dtype; it is asked for one tensor at a time.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    if own := {name: x for name, x in tensors.items() if name.startswith("crf.")}:
        write_file(folder / CRF, own, get)
        tensors = {name: x for name, x in tensors.items() if name not in own}
    shards = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda announced: _size(*announced),
        filename_pattern=SINGLE.replace(".", "{suffix}."),
        max_shard_size=max_bytes,
    )
    for file, names in shards.filename_to_tensors.items():
        write_file(folder / file, {name: tensors[name] for name in names}, get)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(path: Path, tensors: Announced, get: Callable[[str], np.ndarray]) -> None:
    """Writes one file; the arguments are those of `write`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in tensors.items():
        start, end = end, end + _size(shape, dtype)
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in tensors.items():
            x = np.asarray(get(name), _DTYPES[_CODES[dtype]], order="C")
            assert x.shape == shape, f"{name} is {x.shape}, announced as {shape}"
            file.write(x.reshape(-1).view(np.uint8).data)


def _size(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * np.dtype(_DTYPES[_CODES[dtype]]).itemsize
