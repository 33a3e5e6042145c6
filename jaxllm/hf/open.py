"""Opens checkpoints: describes the model whose `load` reads the files, each array straight into its sharding."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.hf import files, table
from jaxllm.hf.config import PAIRS, Fields, read_description
from jaxllm.hf.families import OURS, TASKS, task_in
from jaxllm.hf.hub import fetch, load_tokenizer
from jaxllm.hf.ties import read_as_found, read_head_as_table, untie
from jaxllm.models.heads import PROBLEMS, describe_model, with_trunk
from jaxllm.params import Abstract, Load, ModelSpec
from jaxllm.types import InputError, Params, nearest

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class PretrainedModel(Generic[C]):
    """A model with weights on disk, whose names, shapes and dtypes have been checked; no tensor has been read yet."""

    spec: ModelSpec
    """`spec.load` reads the weights; `params.materialize` also initialises a head that the files lack."""
    config: C
    """TaggerConfig, ClassifierConfig, MaskedConfig, decoder Config or ScorerConfig."""
    task: str
    """tagger, classifier, lm, scorer or masked."""
    family: str
    """The model_type of config.json."""
    hf_config: dict[str, Any]
    """config.json as it is on disk, but untied where the files have a head of its own (ties.py)."""
    folder: Path
    """Where the tokenizer is, and of Hugging Face's format the weights."""
    dtypes: dict[str, str]
    """Name of a tensor in Hugging Face's format -> dtype on disk."""
    notes: list[str]
    """What was not read, reordered or initialised: one line each."""
    initialised: frozenset[str] = frozenset()
    """Names of our parameters that the checkpoint lacks, all of a head."""

    @property
    def dtype(self) -> str:
        """The dtype of most tensors on disk."""
        return collections.Counter(self.dtypes.values()).most_common(1)[0][0]

    @property
    def table(self) -> table.Table:
        """The names of the tensors in Hugging Face's format."""
        return TASKS[self.task][self.family].table(self.config)

    def load_tokenizer(self) -> Any:
        """The tokenizer beside the weights. Raises InputError where there is none."""
        return load_tokenizer(str(self.folder))


@dataclasses.dataclass(frozen=True)
class Found:
    """The parameters of a model that a checkpoint has."""

    load: Load
    initialised: frozenset[str]
    """Names of those that it lacks, all of a head."""
    dtypes: dict[str, str]
    """As in PretrainedModel."""
    notes: list[str]


Find = Callable[[table.Table, Abstract, Mapping[str, str]], Found]
"""Finds parameters of these names and shapes in a checkpoint; last, heads to initialise although it has them -> why."""


def open_model(
    source: str, task: str | None = None, *, labels: Sequence[str] | None = None, **overrides: Any
) -> PretrainedModel[Any]:
    """A model from a folder in Hugging Face's format, a run's export, or a hub id.

    task: "tagger", "classifier", "lm", "scorer" or "masked"; by default what the checkpoint was saved as. A tagger, and
    a masked language model, is made of any encoder of families.TAGGERS (BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA,
    ALBERT, DeBERTa-v2 and v3, DistilBERT, ModernBERT), a scorer of any language model, a classifier of either: a head
    that the files lack, or one for other labels, is initialised, and a note says so. labels: of a tagger or classifier,
    in the order of its logits; those of the file by default. The file's head is reordered if they are the same in
    another order.
    overrides: fields of the encoder's or decoder's configuration that do not change its parameters, such as dtype,
    remat and dropout rates; and of a tagger those of families.OURS, such as `crf`, by default what the checkpoint has.

    Raises InputError, one line that lists everything that does not fit.
    """
    check_task(task)
    folder = fetch(source)
    path, raw, notes = folder / "config.json", read_description(folder), list[str]()
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter beside the model, which transformers applies to it; move adapter_config.json "
            "and adapter_model.safetensors to another folder, and name that one by --lora-from"
        )
    if (task or task_in(raw)) == "lm":
        raw, notes = untie(raw, str(path), folder)
    if (task or task_in(raw)) == "masked":
        raw, notes = read_as_found(raw, str(path), folder)

    find = functools.partial(_find_in_files, folder)
    opened = assemble(raw, str(path), folder, find, task, labels, overrides)
    return dataclasses.replace(opened, notes=[*notes, *opened.notes])


def assemble(
    raw: dict[str, Any],
    where: str,
    folder: Path,
    find: Find,
    task: str | None,
    labels: Sequence[str] | None,
    overrides: Mapping[str, Any],
) -> PretrainedModel[Any]:
    """The model that a config.json describes, with the parameters that `find` finds.

    raw, where: the contents of config.json, and its path for messages. folder: of the tokenizer. The rest is as for
    `open_model`.
    """
    wanted = task or task_in(raw)
    config, notes = read_config(raw, where, wanted)
    extra = {name: x for name, x in overrides.items() if name in OURS}
    config = with_trunk(config, **{name: x for name, x in overrides.items() if name not in extra})
    skip, own = dict[str, str](), ()
    labelled = wanted in ("tagger", "classifier")
    head = config.head_parameters[0].partition(".")[0] if labelled else ""
    if labelled:
        own = config.labels
        config = dataclasses.replace(config, **({} if labels is None else {"labels": tuple(labels)}), **extra)
        if set(config.labels) != set(own):
            skip = dict.fromkeys((head, "crf"), f"the file's labels are {', '.join(own)}")
    spec = describe_model(config)
    found = find(TASKS[wanted][raw["model_type"]].table(config), spec.graphdef.abstract, skip)
    spec = dataclasses.replace(spec, load=found.load)
    reason = ", ".join(note.partition(": ")[2] for note in found.notes if " initialised: " in note)
    if labelled and f"{head}.kernel" in found.initialised:
        if task and labels is None:
            reasons = (note.partition(f"{head} initialised: ")[2] for note in found.notes)
            shapes = next((reason for reason in reasons if ", wanted (" in reason), "")
            if shapes:
                names = f"{where} has {len(config.labels)} labels (id2label), and {shapes}"
                raise InputError(f"{names}; name the label of each row of the classifier in id2label")
            raise InputError(
                f"{folder} has no classifier for its labels ({reason}); name a fine-tuned checkpoint, or train this "
                "one first"
            )
    elif labelled and config.labels != own:
        spec = _reorder(spec, head, [own.index(label) for label in config.labels])
        notes.append(f"classifier: the file's labels reordered from {', '.join(own)} to {', '.join(config.labels)}")
    if task is None and wanted == "scorer" and found.initialised:
        raise InputError(
            f"{folder} has no head for one number ({reason}), which a reward model has; name a reward model"
        )
    if task is None and wanted == "masked" and found.initialised:
        raise InputError(
            f"{folder} has no head for masked tokens ({reason}), which its config.json says; name a model that has one"
        )
    notes += found.notes
    return PretrainedModel(spec, config, wanted, raw["model_type"], raw, folder, found.dtypes, notes, found.initialised)


def check_task(task: str | None) -> None:
    """Raises InputError for a task that is unknown."""
    if task is not None and task not in TASKS:
        raise InputError(f"task {task!r}: {nearest(task, TASKS)}")


def read_config(raw: Mapping[str, Any], where: str, task: str) -> tuple[Any, list[str]]:
    """The configuration of the model for this task that a config.json describes, and notes on fields without effect.

    Raises InputError for a family or a field that is not supported, and for a reward model that should generate.
    """
    families, kind = TASKS[task], raw.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        others = "".join(
            f"; as a {name}: {', '.join(sorted(TASKS[other]))}"
            for other, name in (("tagger", "token classifier"), ("lm", "language or reward model"))
            if TASKS[other].keys() != families.keys()
        )
        raise InputError(f"{where}: model_type is {kind!r}, supported here: {', '.join(sorted(families))}{others}")
    if task == "lm" and task_in(raw) in ("scorer", "classifier"):
        kind = "reward model" if task_in(raw) == "scorer" else "classifier"
        raise InputError(f"{where} describes a {kind}, which generates no text; name a language model")
    fields = Fields(raw, where)
    config = families[kind].read(fields)
    if task in ("tagger", "classifier"):
        config = dataclasses.replace(config, labels=_labels(fields))
    if task == "classifier":
        named = {theirs: ours for ours, theirs in PROBLEMS.items()}.get(str(fields.values.get("problem_type")))
        named = named or ("single" if len(config.labels) > 1 else "regression")
        config = dataclasses.replace(config, problem=named, pairs=fields.values.get(PAIRS))
    return config, fields.finish()


def _labels(fields: Fields) -> tuple[str, ...]:
    names: dict[int, str] = fields.values["id2label"]
    if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
        raise InputError(f"{fields.where}: id2label is {names}, wanted distinct names for 0 to {len(names) - 1}")
    return tuple(names[i] for i in range(len(names)))


def _find_in_files(folder: Path, names: table.Table, abstract: Abstract, skip: Mapping[str, str]) -> Found:
    """Matches the parameters with the safetensors files of a folder. Raises InputError that lists what does not fit."""
    tensors, entries = table.layout(names, abstract), files.open_folder(folder)
    found = match_files(names, tensors, entries, skip)
    own = {name: entries[there] for name, there in found.names.items()}
    dtypes = {name: entry.dtype for name, entry in own.items()}
    floats = ("float32", "float16", "bfloat16")
    problems = [*found.problems, *(f"{name} is {x}, wanted a float" for name, x in dtypes.items() if x not in floats)]
    if problems:
        listed = "; ".join(problems)
        raise InputError(f"{folder}: the tensors do not fit config.json, get the files that belong together: {listed}")
    rows = table.sources(tensors)

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        wanted = {name: at for name, at in shardings.items() if name not in found.initialised}
        return {name: read_rows(rows[name], abstract[name], at, own) for name, at in wanted.items()}

    ignored = [f"not read: {', '.join(found.ignored)}"] if found.ignored else []
    if beside := files.unread(folder, entries):
        ignored.append(f"files not read: {', '.join(beside)}")
    return Found(load, found.initialised, dtypes, [*ignored, *found.notes])


def match_files(
    names: table.Table, tensors: table.Layout, entries: files.Entries, skip: Mapping[str, str] | None = None
) -> table.Match:
    """`table.match` with the tensors in files."""
    shapes = {name: entry.shape for name, entry in entries.items()}
    return table.match(read_head_as_table(names, entries), tensors, shapes, skip)


def read_rows(rows: table.Rows, like: Any, sharding: jax.sharding.Sharding, entries: files.Entries) -> jax.Array:
    """A parameter with the shape and dtype of `like`, from the tensors in files that its rows are in."""

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        return table.piece(rows, like.shape, index, like.dtype, lambda name: entries[name].map())

    return place(like.shape, sharding, piece)


def place(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, piece: Callable[[tuple[slice, ...]], np.ndarray]
) -> jax.Array:
    """An array from its pieces, `piece(index)` for each distinct index of a device of this process.

    Unlike `jax.make_array_from_callback` it holds one piece at a time on the host.
    """
    devices = collections.defaultdict[tuple[tuple[int, int, int], ...], list[jax.Device]](list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        bounds = tuple(part.indices(n) for part, n in zip(index, shape, strict=True))
        devices[bounds].append(device)
    pieces: list[jax.Array] = []
    for bounds, group in devices.items():
        x = piece(tuple(slice(*part) for part in bounds))
        pieces += jax.block_until_ready([jax.device_put(x, device) for device in group])
        del x
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _reorder(spec: ModelSpec, head: str, order: list[int]) -> ModelSpec:
    """The same model, with the columns of this head, and the labels of its CRF, in another order."""

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        params = spec.load_own(shardings)
        for name in [name for name in params if name.startswith((f"{head}.", "crf."))]:
            ordered = jnp.take(params[name], jnp.array(order), axis=-1)
            ordered = jnp.take(ordered, jnp.array(order), axis=0) if name == "crf.pairs" else ordered
            params[name] = jax.device_put(ordered, shardings[name])
        return params

    return dataclasses.replace(spec, load=load)
