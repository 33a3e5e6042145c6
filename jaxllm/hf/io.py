"""Opening checkpoints: the description of a model whose `load` reads the files, straight into its sharding."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxllm.data.sources import quiet_hub
from jaxllm.hf import bert, distilbert, files, modernbert, roberta, table
from jaxllm.hf.config import Fields, read_json
from jaxllm.hf.family import Family
from jaxllm.models import heads
from jaxllm.models.heads import Tagger, TaggerConfig
from jaxllm.params import Abstract, ModelSpec, Rules, describe
from jaxllm.types import InputError, Params

C = TypeVar("C")

TAGGERS: dict[str, Family[TaggerConfig]] = {
    **bert.FAMILIES,
    **roberta.FAMILIES,
    **distilbert.FAMILIES,
    **modernbert.FAMILIES,
}
"""By model_type."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
"""One of these holds a tokenizer's vocabulary."""


@dataclasses.dataclass(frozen=True)
class Opened(Generic[C]):
    """A checkpoint whose headers have been read and found to fit; no tensor has been touched."""

    spec: ModelSpec
    """`spec.load` reads the files."""
    config: C
    family: str
    """The model_type of config.json."""
    hf_config: dict[str, Any]
    """config.json as it stands."""
    folder: Path
    dtypes: dict[str, str]
    """Name on disk, as we write it -> dtype in the file."""
    notes: list[str]
    """What was passed over, reordered or initialised: one line each."""

    @property
    def dtype(self) -> str:
        """The dtype of most tensors in the file."""
        return collections.Counter(self.dtypes.values()).most_common(1)[0][0]


def fetch(source: str, *, weights: bool = True) -> Path:
    """The folder of a checkpoint: a folder, a run's (its export), or a hub id, `owner/name` or `owner/name@revision`.

    Downloads config, tokenizer and safetensors only, and never code. Raises InputError.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        return path / "hf" if (path / "hf" / "config.json").is_file() else path
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1 or not source:
        raise InputError(f"{source!r} is no folder; name a checkpoint's folder or an id on the hub")
    from huggingface_hub import snapshot_download

    repo, _, revision = source.partition("@")
    kinds = ["*.json", "*.jinja", "tokenizer*", "*.txt", "*.model"] + ["*.safetensors"] * weights
    try:
        with quiet_hub():
            return Path(
                snapshot_download(repo, revision=revision or None, allow_patterns=kinds, ignore_patterns=["*/*"])
            )
    except Exception as error:  # the hub client raises many kinds, for a bad id, no access, no network
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source!r} is no folder, and the hub did not give it: {reason}; check name and network"
        ) from None


def load_tokenizer(source: str) -> Any:
    """The fast tokenizer of a folder or hub id. Raises InputError."""
    from transformers import AutoTokenizer

    folder = fetch(source, weights=False)
    # Where all of them are missing transformers makes an empty tokenizer up.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); name one by --tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its many classes raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} has no tokenizer that can be read: {reason}; name one by --tokenizer") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{folder}: its tokenizer has no fast version (tokenizer.json); convert it with transformers")
    return tokenizer


def open_tagger(source: str, *, labels: Sequence[str] | None = None, **overrides: Any) -> Opened[TaggerConfig]:
    """A token classifier, or a pretrained encoder to make one of.

    labels: names in the order of the logits; None for those of the file, which must then have a classifier. One of the
    same labels is reordered, one of others is initialised; a note says so. overrides: fields of the encoder's
    configuration that do not change its parameters, such as dtype and remat.
    Raises InputError, one line that lists all that does not fit.
    """
    folder, raw, family, fields = _describe(source, TAGGERS)
    config = family.read(fields)
    notes = fields.finish()
    own = _labels(fields)
    wanted = own if labels is None else tuple(labels)
    config = dataclasses.replace(config, labels=wanted, encoder=dataclasses.replace(config.encoder, **overrides))
    other = set(wanted) != set(own)
    skip = {"classifier": f"the file's labels are {', '.join(own)}"} if other else {}
    spec, found, dtypes = _fit(folder, family.table(config), lambda rngs: Tagger(config, rngs), heads.SHARDING, skip)
    fresh = any(name.startswith("classifier.") for name in found.fresh)
    if labels is None and fresh:
        raise InputError(
            f"{folder} has no classifier for its labels; name a fine-tuned checkpoint, or train this one first"
        )
    if not fresh and wanted != own:
        spec = _reordered(spec, [own.index(label) for label in wanted])
        notes.append(f"classifier: the file's labels reordered from {', '.join(own)} to {', '.join(wanted)}")
    if found.ignored:
        notes.append(f"not read: {', '.join(found.ignored)}")
    return Opened(spec, config, raw["model_type"], raw, folder, dtypes, [*notes, *found.notes])


def _describe(source: str, families: Mapping[str, Family[C]]) -> tuple[Path, dict[str, Any], Family[C], Fields]:
    """A checkpoint's folder, config.json, family and fields."""
    folder = fetch(source)
    path = folder / "config.json"
    raw = read_json(path)
    if raw.get("model_type") not in families:
        known = ", ".join(sorted(families))
        raise InputError(f"{path}: model_type is {raw.get('model_type')!r}, supported here: {known}")
    return folder, raw, families[raw["model_type"]], Fields(raw, str(path))


def _labels(fields: Fields) -> tuple[str, ...]:
    names: dict[int, str] = fields.values["id2label"]
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise InputError(f"{fields.where}: id2label is {names}, wanted distinct names for 0 to {len(names) - 1}")
    return tuple(names[i] for i in range(len(names)))


def _fit(
    folder: Path, names: table.Table, build: Callable[[nnx.Rngs], nnx.Module], rules: Rules, skip: Mapping[str, str]
) -> tuple[ModelSpec, table.Match, dict[str, str]]:
    """The description of a model that loads from this folder, what was found there, and its dtypes."""
    spec = describe(build, rules)
    abstract = spec.graphdef.abstract
    tensors, entries = table.layout(names, abstract), files.open_folder(folder)
    found = table.match(names, tensors, {name: entry.shape for name, entry in entries.items()}, skip)
    dtypes = {name: entries[there].dtype for name, there in found.names.items()}
    floats = ("float32", "float16", "bfloat16")
    problems = [*found.problems, *(f"{name} is {x}, wanted a float" for name, x in dtypes.items() if x not in floats)]
    if problems:
        listed = "; ".join(problems)
        raise InputError(f"{folder}: the tensors do not fit config.json, get the files that belong together: {listed}")
    load = _loader(tensors, {name: entries[there] for name, there in found.names.items()}, abstract, found.fresh)
    return dataclasses.replace(spec, load=load), found, dtypes


def _loader(
    tensors: table.Layout, entries: Mapping[str, files.Entry], abstract: Abstract, fresh: frozenset[str]
) -> Callable[[Mapping[str, jax.sharding.Sharding]], Params]:
    rows = table.sources(tensors)

    def load_one(name: str, sharding: jax.sharding.Sharding) -> jax.Array:
        shape, dtype = abstract[name].shape, abstract[name].dtype
        return place(
            shape, sharding, lambda index: table.piece(rows[name], shape, index, dtype, lambda x: entries[x].map())
        )

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        return {name: load_one(name, sharding) for name, sharding in shardings.items() if name not in fresh}

    return load


def place(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, piece: Callable[[tuple[slice, ...]], np.ndarray]
) -> jax.Array:
    """The array of which `piece(index)` gives the parts, as `jax.make_array_from_callback` does, which however holds
    the pieces of all devices on the host before it sends the first."""
    devices: dict[tuple[tuple[int, int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        bounds = tuple(part.indices(n) for part, n in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    pieces: list[jax.Array] = []
    for bounds, group in devices.items():
        x = piece(tuple(slice(*part) for part in bounds))
        pieces += jax.block_until_ready([jax.device_put(x, device) for device in group])
        del x
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _reordered(spec: ModelSpec, order: list[int]) -> ModelSpec:
    """The same, its classifier's columns in another order."""
    read = spec.load
    assert read is not None

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        params = read(shardings)
        for name in [name for name in params if name.startswith("classifier.")]:
            params[name] = jax.device_put(jnp.take(params[name], jnp.array(order), axis=-1), shardings[name])
        return params

    return dataclasses.replace(spec, load=load)
