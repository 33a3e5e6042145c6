"""Models with their parameters and tokenizer: loading, forward passes, LoRA, and writing for `transformers`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxllm import hf
from jaxllm.distributed.mesh import make_mesh, put_batch, shardings
from jaxllm.models import lora
from jaxllm.models.heads import TaggerConfig, trunk_of
from jaxllm.models.remat import check_remat
from jaxllm.params import GraphDef, ModelSpec, bind, count, materialize
from jaxllm.recipes import adapters
from jaxllm.recipes.architecture import find_architecture
from jaxllm.recipes.chat_start import ChatFlags, start_chat
from jaxllm.recipes.rows import key_of
from jaxllm.recipes.start import Start, check_vocabulary, start_decoder
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.train.forward import Runner
from jaxllm.types import Batch, InputError, Metrics, Params


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, its parameters and its tokenizer; a value that no function here changes.

    params: float32 arrays by dotted name, such as `"blocks.attn.q.kernel"` [L, D, F], sharded over `mesh`.
    """

    params: Params
    mesh: Mesh
    start: Start
    """The model's description (`ModelSpec`), configuration, tokenizer, and the checkpoint it came from."""
    base: ModelSpec
    """The description without adapters; the same as `start.model` where there are none."""
    untrained: frozenset[str] = frozenset()
    """Names of the parameters of a new head, until `with_params` replaces them."""

    @property
    def graphdef(self) -> GraphDef:
        """The static, hashable half: `bind(graphdef, params)` is the model with any parameters."""
        return self.start.model.graphdef

    @property
    def config(self) -> Any:
        """The configuration of the architecture."""
        return self.start.config

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, of `transformers`."""
        return self.start.tokenizer

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading had to add, change or leave out, a sentence each."""
        return self.start.notes

    @property
    def runner(self) -> Runner:
        """For evaluations: maps pure functions of a model over batches."""
        return Runner(self.graphdef, self.params, self.mesh)

    def with_params(self, params: Mapping[str, jax.Array]) -> Model:
        """The same model with these parameters in place of those of the same names, for example `state.params`.

        Raises ValueError for a name that the model does not have.
        """
        if unknown := params.keys() - self.params.keys():
            raise ValueError(f"the model has no parameters called {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, params={**self.params, **params}, untrained=self.untrained.difference(params))

    def __repr__(self) -> str:
        return f"Model({type(self.config).__module__}.{type(self.config).__name__}, {count(self.params):,} parameters)"


def load(
    source: str,
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    tokenizer: str = "",
    texts: Sequence[str] = (),
    chat_template: str = "",
    mesh: str | Mesh | None = None,
    dtype: str = "float32",
    remat: str = "none",
    seed: int = 0,
) -> Model:
    """Loads a Hugging Face folder or id, a run folder, or a preset to train from scratch.

    task: "lm" (a language model), "tagger" (a token classifier), "classifier" (of whole texts) or "scorer" (a reward
    model); by default what the checkpoint is, and a language model for a preset. A head that the checkpoint lacks is
    initialised, and a note says so. labels: of a tagger or classifier, in the order of its logits; needed where the
    checkpoint has no head. tokenizer: a folder or id in place of the model's own. texts: of a preset, what a byte-level
    BPE tokenizer is trained on where `tokenizer` names none. chat_template: "plain", "chatml" or a .jinja file, for a
    tokenizer that has none or another; tokens that it adds lengthen the embeddings. mesh: devices per axis, for example
    "fsdp=8" or "data=2,tensor=4"; None for one device. dtype: of activations, float32 or bfloat16 (parameters are
    float32). remat: what the backward pass recomputes: none, dots, dots_no_batch, attention, mlp, full or offload
    (models/remat.py). seed: of parameters that are initialised.
    Raises InputError, one line that says what is wrong and what to do.
    """
    _import_transformers()
    devices = mesh if isinstance(mesh, Mesh) else make_mesh(mesh or "", None if mesh else jax.devices()[:1])
    check_remat(remat, devices.local_devices)
    computing: dict[str, Any] = {"dtype": dtype, "remat": remat}
    found = None if find_architecture(source) else open_weights(source, task, labels=labels, **computing)
    if found is None and task in ("tagger", "classifier"):
        raise InputError(f"{source} is a preset of decoders: a {task} starts from a folder or id, or a run")
    if found and (isinstance(found.config, TaggerConfig) or not chat_template):
        loaded = hf.load_tokenizer(tokenizer or str(found.folder))
        check_vocabulary(loaded, trunk_of(found.config).vocab_size, own=not tokenizer)
        notes = (*found.notes, *(hf.unused_generation_fields(found.folder) if found.task == "lm" else ()))
        start = Start(found.spec, found.config, loaded, found, notes, own_tokenizer=not tokenizer)
    else:
        flags = ChatFlags(
            model=source, tokenizer=tokenizer, chat_template=chat_template, max_length=1, dtype=dtype, remat=remat
        )
        prepare = start_chat if chat_template else start_decoder
        start = prepare(flags, texts, key_of(texts), task or "lm")
    heads = tuple(pattern.rstrip("*") for pattern in getattr(start.config, "head_parameters", ()))
    own = start.source.initialised if start.source else start.model.graphdef.abstract
    untrained = frozenset(name for name in own if name.startswith(heads))
    return Model(load_params(start.model, devices, seed), devices, start, start.model, untrained)


def hidden_states(model: Model, batch: Batch, params: Params | None = None, key: jax.Array | None = None) -> jax.Array:
    """hidden_BTD: what the head reads at each position. Differentiable in `params`, by default the model's own.

    batch: arrays of numpy or jax. key: for dropout; None for none.
    """
    with jax.sharding.use_abstract_mesh(model.mesh.abstract_mesh):
        return _hidden(model.graphdef, model.params if params is None else params, _placed(model, batch), key)[0]


def logits(model: Model, batch: Batch, params: Params | None = None, key: jax.Array | None = None) -> jax.Array:
    """logits_BTV in float32: over the vocabulary, a tagger's labels, or the one number of a reward model.

    Of every position at once, [B, T, V]; losses use `over_tokens`, which does not hold them all.
    """
    with jax.sharding.use_abstract_mesh(model.mesh.abstract_mesh):
        return _logits(model.graphdef, model.params if params is None else params, _placed(model, batch), key)


def add_lora(
    model: Model,
    rank: int = 8,
    *,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = (),
    seed: int = 0,
) -> Model:
    """The model with LoRA adapters that change nothing yet (Hu et al. 2021); all but adapters and a new head is frozen.

    targets: modules by our names or the checkpoint's (`blocks.attn.*`, `q_proj`); by default every matrix in the
    blocks. Raises InputError for a target that the model does not have.
    """
    if model.start.source is None:
        raise InputError("adapters go on trained weights: load a folder, an id or a run, not a preset")
    names, _ = hf.names(model.config, model.start.source)
    wanted = hf.find_targets(tuple(targets), model.base, names)
    settings = lora.Config(rank, alpha, dropout, wanted)
    spec = lora.add(model.base, settings, whole=getattr(model.config, "head_parameters", ()))
    at = shardings(spec.graphdef.abstract, model.mesh, spec.rules, limits=spec.graphdef.limits)
    new = materialize(spec, {name: x for name, x in at.items() if name not in model.params}, seed)
    start = dataclasses.replace(model.start, model=spec)
    return dataclasses.replace(model, params={**model.params, **new}, start=start)


def merge_lora(model: Model) -> Model:
    """The model without adapters, their product added to the kernels that they adapt (Hu et al. 2021, section 4.1)."""
    start = dataclasses.replace(model.start, model=model.base)
    return dataclasses.replace(model, params=adapters.merge(model.start.model, model.params), start=start)


def export(model: Model, folder: str | Path, *, dtype: str | None = None) -> Path:
    """Writes a folder that `transformers` loads: safetensors, config.json, tokenizer; adapters are merged.

    dtype: float32, bfloat16 or float16; by default that of the checkpoint the model came from. Where the model has
    adapters, they are also written alone, for `peft`, to `folder/adapter`. Returns the folder.
    """
    folder, plain = Path(folder), merge_lora(model)
    start = plain.start
    hf.export(
        folder, plain.params, start.config, start.tokenizer, source=start.source, dtype=dtype, tokens=start.tokens
    )
    if model.base is not model.start.model:
        adapters.write(folder / "adapter", model.start, model.params)
    return folder


def _import_transformers() -> None:
    """Imports it without its advice, printed where PyTorch is not installed, which nothing here needs."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import transformers  # noqa: F401
    finally:
        del os.environ[name]
        os.environ.update({name: before} if before is not None else {})


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graphdef: GraphDef, params: Params, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
    return bind(graphdef, params).hidden(batch, key)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef: GraphDef, params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
    model = bind(graphdef, params)
    return model.head(model.hidden(batch, key)[0])


def _placed(model: Model, batch: Batch) -> Batch:
    """Numpy rows on the model's mesh; what is a jax array already stays where it is."""
    leaves = jax.tree.leaves(batch)
    if all(isinstance(x, jax.Array) for x in leaves):
        return batch
    return put_batch(batch, model.mesh, len(leaves[0]))
