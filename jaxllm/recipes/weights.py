"""Opens what `--model` names: a hub id, a folder in Hugging Face's format, or a run with or without an export."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm import hf, planning
from jaxllm.checkpoint.store import newest_sound, read_params
from jaxllm.distributed.mesh import shardings
from jaxllm.hf.config import read_json
from jaxllm.hf.families import TASKS, task_in
from jaxllm.hf.open import Found, assemble, check_task, read_config
from jaxllm.hf.table import Table, layout
from jaxllm.models.heads import describe_model
from jaxllm.params import Abstract, ModelSpec, materialize, stored_as
from jaxllm.types import InputError, Params


def open_weights(
    source: str, task: str | None = None, *, labels: Sequence[str] | None = None, **overrides: Any
) -> hf.PretrainedModel[Any]:
    """`hf.open_model`, of a run's newest checkpoint where the run has no export. The arguments and errors are the same.

    A run of adapters must have an export, for its checkpoints hold the adapters alone.
    """
    check_task(task)
    if planning.current() is not None:
        return _open_shapes(source, task, labels, overrides)
    if not is_bare_run(source):
        return hf.open_model(source, task, labels=labels, **overrides)
    run = Path(source).expanduser()
    written = read_json(run / "config.json")
    raw = written.get("model")
    if not isinstance(raw, dict) or raw.get("model_type") not in TASKS[task_in(raw)]:
        raise InputError(f"{run} has no export (hf/) and does not say what its model is; let the run end with --export")
    if is_adapted(source):
        raise InputError(
            f"{run} has no export (hf/), and its checkpoints hold adapters alone; let the run end first, or convert it"
        )
    folder, find = Path(written.get("tokenizer") or run), functools.partial(_find_in_checkpoint, run, written)
    return assemble(raw, str(run / "config.json"), folder, find, task, labels, overrides)


def _open_shapes(
    source: str, task: str | None, labels: Sequence[str] | None, overrides: Mapping[str, Any]
) -> hf.PretrainedModel[Any]:
    """What a plan needs of a checkpoint: all shapes, from its config.json or a run's; no weights need be there."""
    path = Path(source).expanduser()
    if not path.is_file():
        path = path / "config.json" if is_bare_run(source) else hf.fetch(source, weights=False) / "config.json"
    raw = read_json(path)
    raw = raw["model"] if isinstance(raw.get("model"), dict) else raw
    nothing = Found(lambda wanted: {}, frozenset(), {}, [])
    return assemble(raw, str(path), path.parent, lambda *_: nothing, task, labels, overrides)


def load_params(spec: ModelSpec, mesh: Mesh, seed: int = 0) -> Params:
    """All parameters of a model on a mesh: loaded from its checkpoint, or initialised from `seed` where it has none.

    Raises InputError where an axis of the mesh does not divide what it shards.
    """
    graphdef = spec.graphdef
    return materialize(spec, shardings(graphdef.abstract, mesh, spec.rules, limits=graphdef.limits), seed)


def is_bare_run(source: str) -> bool:
    """Whether this is a run's folder without an export."""
    run = Path(source).expanduser()
    if not source or not (run / "config.json").is_file() or (run / "hf" / "config.json").is_file():
        return False
    return (run / "checkpoints").is_dir() or "script" in read_json(run / "config.json")


def is_adapted(source: str) -> bool:
    """Whether this is a run of adapters without an export."""
    if not is_bare_run(source):
        return False
    flags = read_json(Path(source).expanduser() / "config.json").get("config", {})
    return bool(flags.get("lora_rank") or flags.get("lora_from"))


def _find_in_checkpoint(
    run: Path, written: Mapping[str, Any], names: Table, abstract: Abstract, skip: Mapping[str, str]
) -> Found:
    """The parameters in a run's newest checkpoint; of a head that it lacks there are none. Raises InputError.

    written: the run's config.json, which says what the model is, and has the dtypes of weights that were converted.
    """
    position = newest_sound(run)
    config, _ = read_config(written["model"], str(run / "config.json"), task_in(written["model"]))
    kept = written.get("config", {}).get("param_dtype", "float32")
    saved = stored_as(describe_model(config), kept).graphdef.abstract
    initialised = frozenset(name for name in abstract if name.split(".")[0] in skip or name not in saved)

    def load(wanted: Mapping[str, jax.sharding.Sharding]) -> Params:
        # Orbax must be told where to put everything that the checkpoint holds.
        any_of = next(iter(wanted.values()))
        spare = NamedSharding(any_of.mesh, PartitionSpec()) if isinstance(any_of, NamedSharding) else any_of
        at = {name: sharding for name, sharding in wanted.items() if name not in initialised}
        shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at.get(n, spare)) for n, x in saved.items()}
        found = read_params(run, shapes, position)
        return {name: found[name].astype(abstract[name].dtype) for name in at}

    dtypes = {name: written.get("dtypes", {}).get(name, "float32") for name in layout(names, abstract)}
    heads = dict.fromkeys(name.split(".")[0] for name in sorted(initialised))
    notes = [f"{head} initialised: {skip.get(head, 'not in the checkpoint')}" for head in heads]
    return Found(load, initialised, dtypes, [f"the checkpoint of step {position}: the run has no export", *notes])
