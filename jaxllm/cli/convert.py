"""`python -m jaxllm convert`: a checkpoint through our parameters and out again, as `transformers` loads it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jaxllm import hf
from jaxllm.hf import decoders, files, io, table
from jaxllm.hf.config import Fields, read_json
from jaxllm.hf.family import Family
from jaxllm.models import decoder
from jaxllm.params import describe
from jaxllm.train import mesh as meshes
from jaxllm.train.checkpoint import Checkpoints, read_params
from jaxllm.types import InputError, Params

FAMILIES: dict[str, Family[Any]] = {**io.TAGGERS, **decoders.FAMILIES}
"""By model_type."""

KEPT = ("tokenizer*", "*.jinja", "generation_config.json", "special_tokens_map.json", "added_tokens.json")
"""What goes along beside the weights, with the files of vocabularies."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Config:
    """Reads a checkpoint into the parameters of our model and writes it for `transformers`, in safetensors."""

    source: Annotated[str, tyro.conf.Positional]
    """Hugging Face folder or id, or a run folder: its export, or its newest checkpoint where it has none yet."""
    destination: Annotated[str, tyro.conf.Positional]
    """Folder to write."""
    check: bool = False
    """Read what was written and compare every tensor with the source, bit by bit."""
    dtype: str = ""
    """float32, bfloat16 or float16; by default each tensor keeps its own."""
    max_shard_gb: float = 5.0
    """Largest file of weights, in 10^9 bytes."""


def open_any(source: str, **overrides: Any) -> tuple[hf.Opened[Any], Path]:
    """A checkpoint of any family, from a Hugging Face folder or id or a run folder, and the folder of its tokenizer.

    A classifier that the file lacks is left out of what `spec.load` gives. overrides: fields of the model's
    configuration that do not change its parameters. Raises InputError.
    """
    run = Path(source).expanduser()
    if (run / "checkpoints").is_dir() and not (run / "hf" / "config.json").is_file():
        return _open_checkpoint(run, **overrides)
    raw = read_json(io.fetch(source) / "config.json")
    if raw.get("model_type") in io.TAGGERS:
        opened: Any = hf.open_tagger(source, labels=tuple(Fields(raw).values["id2label"].values()), **overrides)
    else:
        opened = hf.open_decoder(source, **overrides)
    return opened, opened.folder


def _open_checkpoint(run: Path, **overrides: Any) -> tuple[hf.Opened[Any], Path]:
    """A run that has checkpoints and no export: its config.json says what the model is and where its tokenizer lies."""
    written = read_json(run / "config.json")
    raw = written.get("model")
    if not isinstance(raw, dict) or raw.get("model_type") not in decoders.FAMILIES:
        raise InputError(f"{run} has no export (hf/) and does not say what its model is; let the run end with --export")
    config = dataclasses.replace(decoders.FAMILIES[raw["model_type"]].read(Fields(raw)), **overrides)
    spec = describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)
    abstract = spec.graphdef.abstract
    checkpoints = Checkpoints(run / "checkpoints")
    position = checkpoints.latest()
    checkpoints.close()
    if position is None:
        raise InputError(f"{run} holds no checkpoint yet; wait for the first")

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[n]) for n, x in abstract.items()}
        return read_params(run, shapes, position)

    dtypes = dict.fromkeys(table.layout(decoders.FAMILIES[raw["model_type"]].table(config), abstract), "float32")
    note = f"the checkpoint of step {position}: the run has no export"
    spec = dataclasses.replace(spec, load=load)
    return hf.Opened(spec, config, raw["model_type"], raw, run, dtypes, [note]), Path(written.get("tokenizer") or run)


def convert(
    source: str, destination: Path, *, dtype: str = "", max_shard_bytes: int = 5_000_000_000
) -> tuple[hf.Opened[Any], Params, list[str]]:
    """Converts, all or nothing: what was opened, the parameters read, and what there is to say. Raises InputError."""
    if dtype not in ("", *DTYPES):
        raise InputError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} is there already; name a new folder")
    opened, beside = open_any(source)
    mesh = meshes.make_mesh()
    assert opened.spec.load is not None
    params = opened.spec.load(meshes.shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules))
    tensors = table.layout(FAMILIES[opened.family].table(opened.config), params)
    announced = {name: (tensor.shape, dtype or opened.dtypes[name]) for name, tensor in tensors.items()}

    def get(name: str) -> np.ndarray:
        return table.join(tensors[name], lambda part, row: np.asarray(params[part][row] if row else params[part]))

    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files.write(partial, announced, get, max_bytes=max_shard_bytes)
    fields = {**opened.hf_config, "dtype": dtype or opened.dtype}
    fields.pop("torch_dtype", None)  # its old name
    (partial / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    kept = sorted({path for kind in (*KEPT, *io.TOKENIZER_FILES, "merges.txt") for path in beside.glob(kind)})
    for path in kept:
        shutil.copyfile(path, partial / path.name)
    if destination.exists():
        destination.rmdir()
    partial.rename(destination)
    known = any(path.name in io.TOKENIZER_FILES for path in kept)
    along = f"along with it: {', '.join(path.name for path in kept)}" if kept else "nothing goes along"
    return opened, params, [*opened.notes, along if known else f"weights alone, there is no tokenizer ({along})"]


def verify(opened: hf.Opened[Any], params: Params, destination: Path, dtype: str = "") -> tuple[int, list[str]]:
    """How many tensors were written, and the names of those that differ by a bit from the source's.

    The source's are those in its files; of a run without an export, the parameters in its checkpoint.
    """
    family = FAMILIES[opened.family].table(opened.config)
    tensors = table.layout(family, params)
    written = files.open_folder(destination)
    there: Mapping[str, files.Entry] = {}
    names: Mapping[str, str] = {}
    if any(opened.folder.glob("*.safetensors")):
        there = files.open_folder(opened.folder)
        names = table.match(family, tensors, {name: entry.shape for name, entry in there.items()}).names

    def same(name: str) -> bool:
        if names:
            wanted = there[names[name]].map()
        else:
            wanted = table.join(tensors[name], lambda part, row: np.asarray(params[part][row] if row else params[part]))
        got = written[name].map()
        wanted = np.asarray(wanted).astype(dtype or wanted.dtype)
        return got.shape == wanted.shape and got.dtype == wanted.dtype and got.tobytes() == wanted.tobytes()

    if missing := names.keys() ^ written.keys() if names else tensors.keys() ^ written.keys():
        return len(written), sorted(missing)
    return len(written), [name for name in written if not same(name)]


def main(config: Config) -> None:
    """Converts, and says what went along and what did not."""
    destination = Path(config.destination)
    opened, params, notes = convert(
        config.source, destination, dtype=config.dtype, max_shard_bytes=int(config.max_shard_gb * 1e9)
    )
    for note in notes:
        print(note)
    if config.check:
        count, wrong = verify(opened, params, destination, config.dtype)
        if wrong:
            raise RuntimeError(f"{len(wrong)} of {count} tensors differ after the round trip: {', '.join(wrong[:8])}")
        cast = f" (cast to {config.dtype})" if config.dtype else ""
        print(f"{count} tensors, every one bit-equal to the source{cast}")
    print(f"written: {destination}")
