"""What names weights on the command line: a Hugging Face folder or id, or a run of ours with or without an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm import hf
from jaxllm.checkpoint.store import newest_sound, read_params
from jaxllm.hf import decoders, io, scorers, table
from jaxllm.hf.config import Fields, read_json
from jaxllm.hf.family import Family
from jaxllm.models import decoder
from jaxllm.models.heads import SCORER_SHARDING, Scorer, ScorerConfig
from jaxllm.params import describe
from jaxllm.types import InputError, Params

FAMILIES: dict[str, Family[Any]] = {**io.TAGGERS, **decoders.FAMILIES}
"""By model_type."""


def open_weights(source: str, **overrides: Any) -> hf.Opened[Any]:
    """A checkpoint of any family; of a run its export, or its newest checkpoint where it has none yet.

    `folder` of what is returned is where the tokenizer lies. A classifier that the file lacks is left out of what
    `spec.load` gives. overrides: fields of the model's configuration that do not change its parameters. Raises
    InputError.
    """
    if not is_bare_run(source):
        raw = read_json(io.fetch(source) / "config.json")
        if raw.get("model_type") in io.TAGGERS:
            return hf.open_tagger(source, labels=tuple(Fields(raw).values["id2label"].values()), **overrides)
    else:
        raw = read_json(Path(source).expanduser() / "config.json").get("model", {})
    if is_scorer(raw):
        return _own_head(open_scorer(source, **overrides))
    return open_language_model(source, **overrides)


def open_language_model(source: str, **overrides: Any) -> hf.Opened[decoder.Config]:
    """`open_weights` of a causal language model."""
    if is_bare_run(source):
        run = Path(source).expanduser()
        if is_scorer(read_json(run / "config.json").get("model")):
            raise InputError(f"{source} is a reward model, which does not speak; name a language model")
        return _open_checkpoint(run, **overrides)
    return hf.open_decoder(source, **overrides)


def open_scorer(source: str, **overrides: Any) -> hf.Opened[ScorerConfig]:
    """A reward model, or of a language model the trunk, with a new head that a note tells of."""
    if not is_bare_run(source):
        return hf.open_scorer(source, **overrides)
    run = Path(source).expanduser()
    if is_scorer(read_json(run / "config.json").get("model")):
        return _open_checkpoint(run, **overrides)
    base = _open_checkpoint(run, **overrides)
    config, read = ScorerConfig(base.config), base.spec.load
    spec = describe(lambda rngs: Scorer(config, rngs), SCORER_SHARDING)

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        assert read is not None
        wanted = {name: at for name, at in shardings.items() if name in base.spec.graphdef.abstract}
        return read(wanted) if wanted else {}

    dtypes = base.dtypes | {"score.weight": "float32"}
    notes = [*base.notes, "score initialised: a new head"]
    return hf.Opened(
        dataclasses.replace(spec, load=load), config, base.family, base.hf_config, base.folder, dtypes, notes
    )


def _own_head(opened: hf.Opened[ScorerConfig]) -> hf.Opened[ScorerConfig]:
    """A reward model whose head is in its file. Raises InputError."""
    if "score.weight" not in opened.dtypes:
        raise InputError(f"{opened.folder} has no head for one number, which a reward model has; name a reward model")
    return opened


def table_of(opened: hf.Opened[Any]) -> table.Table:
    """The names of the tensors on disk."""
    families: Mapping[str, Family[Any]] = scorers.FAMILIES if isinstance(opened.config, ScorerConfig) else FAMILIES
    return families[opened.family].table(opened.config)


def is_scorer(described: Any) -> bool:
    """Whether a run's model is a reward model."""
    return isinstance(described, dict) and "ForSequenceClassification" in str(described.get("architectures"))


def is_bare_run(source: str) -> bool:
    """Whether this is a run's folder without an export."""
    run = Path(source).expanduser()
    if not source or not (run / "config.json").is_file() or (run / "hf" / "config.json").is_file():
        return False
    return (run / "checkpoints").is_dir() or "script" in read_json(run / "config.json")


def _open_checkpoint(run: Path, **overrides: Any) -> hf.Opened[Any]:
    """The run's config.json says what the model is, where its tokenizer lies, and dtypes if it was converted."""
    written = read_json(run / "config.json")
    raw = written.get("model")
    families: Mapping[str, Family[Any]] = scorers.FAMILIES if is_scorer(raw) else decoders.FAMILIES
    if not isinstance(raw, dict) or raw.get("model_type") not in families:
        raise InputError(f"{run} has no export (hf/) and does not say what its model is; let the run end with --export")
    flags = written.get("config", {})
    if flags.get("lora_rank") or flags.get("lora_from"):
        raise InputError(
            f"{run} has no export (hf/), and its checkpoints hold adapters alone; let the run end first, or convert it"
        )
    family = families[raw["model_type"]]
    config = family.read(Fields(raw, str(run / "config.json")))
    if isinstance(config, ScorerConfig):
        config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **overrides))
        spec = describe(lambda rngs: Scorer(config, rngs), SCORER_SHARDING)
    else:
        config = dataclasses.replace(config, **overrides)
        spec = describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)
    position = newest_sound(run)
    abstract = spec.graphdef.abstract

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        # Orbax wants to know of all that is in the checkpoint where it is to go.
        any_of = next(iter(shardings.values()))
        spare = NamedSharding(any_of.mesh, PartitionSpec()) if isinstance(any_of, NamedSharding) else any_of
        at = {name: shardings.get(name, spare) for name in abstract}
        shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at[n]) for n, x in abstract.items()}
        found = read_params(run, shapes, position)
        return {name: found[name] for name in shardings}

    dtypes = dict.fromkeys(table.layout(family.table(config), abstract), "float32") | written.get("dtypes", {})
    note = f"the checkpoint of step {position}: the run has no export"
    folder = Path(written.get("tokenizer") or run)
    return hf.Opened(dataclasses.replace(spec, load=load), config, raw["model_type"], raw, folder, dtypes, [note])
