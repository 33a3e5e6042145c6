"""`python -m jaxllm convert`: converts weights to Hugging Face's format or to a run folder, and checks the result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxllm import hf
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.distributed import mesh as meshes
from jaxllm.hf import files, table
from jaxllm.hf.config import read_json
from jaxllm.hf.open import match_files
from jaxllm.models.heads import TaggerConfig
from jaxllm.recipes import adapter_runs
from jaxllm.recipes.weights import is_adapted, is_bare_run, open_weights
from jaxllm.types import InputError, Params, TrainState

KEPT = ("*.jinja", "tokenizer*", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
"""Files that are copied beside the weights, besides those of the tokenizer."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Config:
    """Reads weights into the parameters of our model and writes them in safetensors, as `transformers` loads them."""

    source: Annotated[str, tyro.conf.Positional]
    """Hugging Face folder or id, or a run folder: its export, or its newest checkpoint where it has no export yet."""
    destination: Annotated[str, tyro.conf.Positional]
    """Folder to write, which must not exist."""
    to: str = "hf"
    """Format to write: hf, or run (a run folder that --model takes, with float32 parameters in an Orbax checkpoint; for
    decoders)."""
    adapter: bool = False
    """Write only the adapters of a run with LoRA, as peft loads them, instead of the model with the adapters merged."""
    check: bool = False
    """Read what was written and compare every tensor with the source, bit for bit."""
    dtype: str = ""
    """Type of the written weights: float32, bfloat16 or float16; by default each tensor keeps its own."""
    max_shard_gb: float = 5.0
    """Size of the largest file of weights, in 10^9 bytes."""


def convert(
    source: str,
    destination: Path,
    *,
    to: str = "hf",
    dtype: str = "",
    adapter: bool = False,
    max_shard_bytes: int = 5_000_000_000,
) -> list[str]:
    """Converts, all or nothing, and returns messages for the user, one line each. Raises InputError."""
    if to not in ("hf", "run"):
        raise InputError(f"--to {to}: give hf or run")
    if dtype not in ("", *DTYPES):
        raise InputError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}")
    if dtype and to == "run":
        raise InputError(f"--dtype {dtype}: a run's parameters are float32, cast them on the way to hf")
    if adapter and (dtype or to == "run"):
        raise InputError("--adapter with --dtype or --to: adapters are written for peft as they were trained")
    if max_shard_bytes < 1:
        raise InputError("--max-shard-gb: give a size above 0")
    if destination.is_symlink() or destination.exists():
        raise InputError(f"{destination} is there already; name a new folder")
    if adapter or is_adapted(source):
        if to == "run":
            raise InputError(f"--to run: {source} is a run already")
        with _whole(destination) as partial:
            if adapter:
                return adapter_runs.write_adapter(partial, source, _device())
            return adapter_runs.write_merged(partial, source, _device(), dtype, max_shard_bytes)
    opened = open_weights(source)
    if to == "run" and isinstance(opened.config, TaggerConfig):
        raise InputError(
            f"--to run: {opened.family} is no decoder; its Hugging Face folder itself is what --model takes"
        )
    params = _load(opened)
    with _whole(destination) as partial:
        if to == "run":
            _write_run(partial, opened, params)
        else:
            _write_hf(partial, opened, params, dtype, max_shard_bytes)
        found = {path for kind in (*KEPT, *hf.TOKENIZER_FILES) for path in opened.folder.glob(kind) if path.is_file()}
        kept = sorted(path.name for path in found)
        for name in kept:
            if name.endswith(".json"):
                read_json(opened.folder / name)
            shutil.copyfile(opened.folder / name, partial / name)
    along = f"along with it: {', '.join(kept)}" if kept else "nothing goes along"
    if not set(kept) & set(hf.TOKENIZER_FILES):
        along = f"weights alone, there is no tokenizer ({along})"
    return [*opened.notes, along]


def verify(source: str, destination: Path, dtype: str = "") -> tuple[int, list[str]]:
    """How many tensors were written, and the names of those missing on either side or that differ by a bit.

    Both sides are read from disk again. dtype: what the source was cast to, "" for nothing.
    """
    wanted, written = _tensors(source), _tensors(str(destination))

    def same(name: str) -> bool:
        a, b = wanted[name](), written[name]()
        a = a.astype(dtype or a.dtype)
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()

    wrong = wanted.keys() ^ written.keys()
    return len(written), sorted(name for name in wanted.keys() | written.keys() if name in wrong or not same(name))


def main(config: Config) -> None:
    """Converts and prints the messages."""
    destination = Path(config.destination).expanduser()
    if config.check and (config.adapter or is_adapted(config.source)):
        raise InputError("--check: the source has no tensors like those of adapters or of merged weights; leave it out")
    if not 0 < config.max_shard_gb < math.inf:
        raise InputError(f"--max-shard-gb {config.max_shard_gb}: give a size above 0, in 10^9 bytes")
    notes = convert(
        config.source, destination, to=config.to, dtype=config.dtype, adapter=config.adapter,
        max_shard_bytes=int(config.max_shard_gb * 1e9),
    )  # fmt: skip
    for note in notes:
        print(note)
    print(f"written: {destination}")
    if config.check:
        count, wrong = verify(config.source, destination, config.dtype)
        if wrong:
            print(f"error: {len(wrong)} of {count} tensors are not the source's: {', '.join(wrong)}", file=sys.stderr)
            raise SystemExit(1)
        cast = f", cast to {config.dtype}" if config.dtype else ""
        left = "".join(f"; {note}" for note in notes if note.startswith(("not read: ", "files not read: ")))
        print(f"checked: {count} tensors, every one bit-equal to the source's{cast}{left}")


def _load(opened: hf.PretrainedModel[Any]) -> Params:
    """All parameters, in the host's memory if JAX has a CPU device."""
    assert opened.spec.load is not None
    mesh = meshes.make_mesh(devices=[_device()])
    return opened.spec.load(meshes.shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules))


def _device() -> jax.Device:
    """The CPU, or the first device where JAX has no CPU."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.devices()[0]


@contextlib.contextmanager
def _whole(destination: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `destination` at the end and removed if writing fails."""
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(destination)
    except OSError as error:
        raise InputError(f"{destination} cannot be written ({error.strerror or error}); name another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_hf(partial: Path, opened: hf.PretrainedModel[Any], params: Params, dtype: str, max_shard_bytes: int) -> None:
    tensors = table.layout(opened.table, params)
    announced = {name: (tensor.shape, dtype or opened.dtypes[name]) for name, tensor in tensors.items()}

    def get(name: str) -> np.ndarray:
        x = _join(tensors[name], params)
        if dtype == "float16" and np.abs(x).max(initial=0) > np.finfo(np.float16).max and np.isfinite(x).all():
            raise InputError(f"{name} has values beyond float16's {np.finfo(np.float16).max}; give --dtype bfloat16")
        return x

    files.write(partial, announced, get, max_bytes=max_shard_bytes)
    fields = {**opened.hf_config, "dtype": dtype or opened.dtype}
    fields.pop("torch_dtype", None)  # its old name
    (partial / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _write_run(partial: Path, opened: hf.PretrainedModel[Any], params: Params) -> None:
    """A run folder at step 0. Its config.json keeps the dtypes, to restore them on export."""
    checkpoints = Checkpoints(partial / "checkpoints")
    checkpoints.save(0, TrainState(jnp.int32(0), params, {"none": jnp.int32(0)}), {})  # Orbax takes no empty item
    checkpoints.close()
    config = {"script": "convert", "config": {}, "model": opened.hf_config, "dtypes": opened.dtypes}
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(source: str) -> Mapping[str, Callable[[], np.ndarray]]:
    """The tensors of a checkpoint by the names that we write, each read when called.

    From Hugging Face files they are the tensors in the files; from a run's checkpoint they are made of its parameters.
    """
    opened = open_weights(source)
    if not is_bare_run(source):
        tensors, there = table.layout(opened.table, opened.spec.graphdef.abstract), files.open_folder(opened.folder)
        names = match_files(opened.table, tensors, there).names
        return {name: there[found].map for name, found in names.items()}
    params = _load(opened)

    def of(tensor: table.Tensor) -> Callable[[], np.ndarray]:
        return lambda: _join(tensor, params).astype(opened.dtypes[tensor.name])

    return {name: of(tensor) for name, tensor in table.layout(opened.table, params).items()}


def _join(tensor: table.Tensor, params: Params) -> np.ndarray:
    return table.join(tensor, lambda part, row: np.asarray(params[part][row] if row else params[part]))
