"""Pretraining: a decoder learns to predict the next token of text.

    python experiments/pretrain.py
    python experiments/pretrain.py --model gpt2-124m --tokenizer gpt2 --dataset HuggingFaceFW/fineweb-edu:sample-10BT \
        --max-length 1024 --batch-size 512 --dtype bfloat16 --mesh fsdp=8
    python experiments/pretrain.py --model tiny --tokenizer char --dataset shakespeare.txt --concatenate
    python experiments/pretrain.py --model path/to/llama --dataset books.jsonl:0.7 code.parquet:0.3

Papers: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; Touvron et al. 2023, LLaMA.
Expected: see experiments/README.md, which has the numbers and the time they took.

With no flags a small Llama learns the source and documentation of Python's standard library, with a byte-level BPE
tokenizer trained on them. Text is tokenised once, into a file below ~/.cache/jaxllm that later runs map into memory, so
a corpus may be larger than memory is; `data/documents.py` says which files are read piece by piece.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from jaxllm import hf
from jaxllm.cli.architecture import architecture
from jaxllm.cli.common import Common, check, fit_arguments, loss_arguments, optim_config
from jaxllm.cli.generate import continue_text, encode
from jaxllm.cli.script import run as run_script
from jaxllm.cli.show import card, describe_mesh, show_summary
from jaxllm.data import tokenizers
from jaxllm.data.corpus import Corpus, Marks, open_corpus
from jaxllm.data.documents import Documents, open_documents, weighted
from jaxllm.data.text import Concatenated, Packed, Rows, TextBatches, text_loader
from jaxllm.evals import loss as loss_eval
from jaxllm.evals.generate import Sampling
from jaxllm.losses import resolve
from jaxllm.models.decoder import PRESETS, SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import count, describe
from jaxllm.train.fit import fit
from jaxllm.train.mesh import make_mesh, row_multiple
from jaxllm.train.run import open_run, operational, report
from jaxllm.types import InputError, Numbers

DEMO_STEPS = 200
"""Of the run with no flags: what two CPU cores do in about two minutes."""

MODELS = "Hugging Face id or folder or run folder to go on from, or to train from scratch a .json or a preset"


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """Pretraining of a causal language model."""

    model: Annotated[str, tyro.conf.arg(help=f"{MODELS}: {', '.join(PRESETS)}.")] = "small"
    tokenizer: str = ""
    """Hugging Face id or folder, or `bpe` or `char` to train one on the data; by default the model's own, else bpe."""
    vocab_size: int = 2048
    """Of the tokenizer that is trained."""
    dataset: tuple[str, ...] = ("builtin",)  # type: ignore[assignment]
    """Files, folders or hub ids, with weights if wanted: a.txt:0.7 b.jsonl:0.3. `builtin` is the standard library."""
    holdout: float = 0.05
    """Share of a data set to validate on where it has no dev split; 0 for none."""
    concatenate: bool = False
    """Cut rows from the documents end to end, instead of packing whole documents that do not see each other."""
    epochs: float = 0.0
    """Passes over the data; 0 for one (of the embedded corpus, with no --steps either: what takes two minutes)."""
    batch_size: int = 16
    """Rows per optimizer step over all devices."""
    learning_rate: float = 2e-3
    """At the peak of the schedule."""
    schedule: str = "cosine"
    """After warm-up: constant, linear, cosine, wsd (hold, then decay)."""
    warmup: float = 0.05
    """Steps of linear warm-up; below 1, a share of all steps."""
    final_learning_rate: float = 0.1
    """At the end of the schedule, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled; biases and norms are spared."""
    beta2: float = 0.95
    """Decay of AdamW's second moment."""
    dropout: float = 0.0
    """Rate, after embeddings, on attention probabilities and on what each layer adds."""
    prompt: str = operational("")
    """What the sample at each evaluation continues; by default it begins a document."""
    sample_tokens: int = operational(80)
    """Tokens of that sample; 0 for none."""
    eval_every: str = operational("100")
    """Steps between evaluations, or `epoch`; 0 for the end only."""
    checkpoint_every: str = operational("500")
    """Steps between checkpoints, or `epoch`; 0 for the end only."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Documents by data set, and the weights of those to train on."""

    train: list[Documents]
    weights: list[float]
    dev: list[Documents]


def read(config: Config) -> Data:
    """Finds the data sets; no text is read yet. Raises InputError."""
    if not 0 <= config.holdout < 1:
        raise InputError(f"--holdout {config.holdout}: give a share from 0 to below 1")
    if not config.dataset:
        raise InputError("--dataset is empty: name a file, folder or hub id, or builtin")
    named = [weighted(dataset) for dataset in config.dataset]
    holdout = 0.0 if config.eval_dataset else config.holdout
    opened = [open_documents(name, holdout) for name, _ in named]
    held_out = [open_documents(config.eval_dataset)] if config.eval_dataset else opened
    dev = [splits["dev"] for splits in held_out if "dev" in splits]
    if config.eval_dataset and not dev:  # a lone file
        dev = [held_out[0]["train"]]
    return Data([splits["train"] for splits in opened], [weight for _, weight in named], dev)


@dataclasses.dataclass(frozen=True)
class Start:
    """What training starts from."""

    model: Any
    config: Shape
    tokenizer: Any
    source: Any | None
    notes: tuple[str, ...]


def start(config: Config, data: Data) -> Start:
    """A pretrained decoder, or one from scratch: the vocabulary of a preset is its tokenizer's. Raises InputError."""
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "output_dropout"), config.dropout)
    computing: dict[str, Any] = {"dtype": config.dtype, "remat": config.remat, **rates}
    shape, source, notes = architecture(config.model), None, ()
    if shape is None:
        source = hf.open_decoder(config.model, **computing)
        shape, notes = source.config, tuple(source.notes)
    if config.tokenizer in tokenizers.KINDS or (source is None and not config.tokenizer):
        kind = config.tokenizer or "bpe"
        key = " ".join(documents.key for documents in data.train)
        texts = (text for documents in data.train for text in documents.texts())
        options = {"vocab_size": config.vocab_size} if kind == "bpe" else {}
        tokenizer = tokenizers.trained(kind, texts, key, **options)
    else:
        tokenizer = hf.load_tokenizer(config.tokenizer or str(source.folder))
    if config.model in PRESETS:
        shape = dataclasses.replace(shape, vocab_size=len(tokenizer))
    shape = dataclasses.replace(shape, **computing)
    if len(tokenizer) > shape.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {shape.vocab_size}: "
            "use the model's own tokenizer, or a preset, which takes any"
        )
    if config.max_length > shape.max_positions:
        raise InputError(f"--max-length {config.max_length}: the context of the model is {shape.max_positions}")
    spec = source.spec if source else describe(lambda rngs: Decoder(shape, rngs), SHARDING)
    return Start(spec, shape, tokenizer, source, notes)


def settle(config: Config) -> Config:
    """Fills in the length of the run."""
    if config.steps or config.epochs:
        return config
    demo = config.dataset == ("builtin",)
    return dataclasses.replace(config, steps=DEMO_STEPS if demo else 0, epochs=1.0)


def sampler(config: Config, begin: Start, console: Console) -> Any:
    """An evaluation that prints what the model makes of the prompt."""
    prompt = encode(config.prompt, begin.tokenizer)
    if len(prompt) >= begin.config.max_positions:
        raise InputError(f"--prompt has {len(prompt)} tokens, the context of the model is {begin.config.max_positions}")
    ends = (Marks.of(begin.tokenizer).end,)

    def sample(model: Any) -> Numbers:
        new = continue_text(
            model.graphdef, model.params, begin.tokenizer, prompt, Sampling(0.8, top_p=0.95),
            max_tokens=config.sample_tokens, ends=ends, seed=config.seed,
        )  # fmt: skip
        console.print(f"[dim]{escape(config.prompt + new)}[/dim]")
        return {"characters": float(len(new))}

    return sample


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    began = time.monotonic()
    config = settle(config)
    check(config)
    if config.concatenate and not config.pack:
        raise InputError("--concatenate and --no-pack are two ways to fill a row: give one")
    loss = resolve(config.loss, **loss_arguments(config.loss_args))
    run = open_run("pretrain", config, config.out)
    console = Console(soft_wrap=True, highlight=False, quiet="none" in config.log_to)
    mesh = make_mesh(config.mesh)
    data = read(config)
    begin = start(config, data)

    def corpora(documents: Sequence[Documents]) -> list[Corpus]:
        return [open_corpus(d, begin.tokenizer, begin.config.vocab_size, say=console.print) for d in documents]

    def rows(found: Sequence[Corpus]) -> list[Rows]:
        if config.concatenate:
            return [Concatenated(corpus, config.max_length) for corpus in found]
        return [Packed(corpus, config.max_length, config.pack) for corpus in found]

    train, dev = corpora(data.train), corpora(data.dev)
    feed = text_loader(rows(train), data.weights, batch_size=config.batch_size, seed=config.seed)
    arguments = fit_arguments(config, feed.plan)
    if run.finished(arguments["steps"]):
        console.print(f"{run.folder} is finished ({arguments['steps']} steps); give --steps for more, or another --out")
        show_summary(run, console)
        return

    console.print(f"run      {run.folder}")
    parameters = count(begin.model.graphdef.abstract)
    console.print(f"model    {config.model}, {parameters:,} parameters, on {describe_mesh(mesh)}")
    for note in begin.notes:
        console.print(f"         {note}")
    for split, found in (("train", train), ("dev", dev)):
        for corpus in found:
            amount = f"{len(corpus.tokens):,} tokens, {len(corpus.ends):,} documents, {corpus.size:,} bytes"
            console.print(f"{split:<8} {corpus.name}: {amount}")
    if not dev:
        console.print("dev      none: too few documents to hold one out; name an --eval-dataset")
    console.print(f"rows     {feed.plan.describe()}")

    multiple = row_multiple(mesh)
    batches = TextBatches(rows(dev), -(-config.eval_batch_size // multiple) * multiple)
    evals: dict[str, Any] = {"dev": functools.partial(loss_eval.evaluate, batches=batches)} if dev else {}
    if config.sample_tokens:
        evals["sample"] = sampler(config, begin, console)
    # What the model is stands in config.json too, so that a checkpoint can be converted while the run goes on.
    described = hf.config_json(begin.config, begin.tokenizer, begin.source)
    run = dataclasses.replace(
        run, config={**run.config, "model": described, "tokenizer": str(begin.tokenizer.name_or_path)}
    )
    fitted = fit(
        begin.model, loss=loss, data=feed, optimizer=optim_config(config), run=run, mesh=mesh, evals=evals, **arguments
    )

    chosen = {k: x for line in fitted.log if line["step"] == fitted.position for k, x in line.items()}
    finals = {name: x for name, x in chosen.items() if name.startswith("dev/")}
    console.print(f"\nstep {fitted.position}")
    for name, x in finals.items():
        console.print(f"  {name} {x:.4f}")
    if config.export:
        hf.export(
            run.folder / "hf", fitted.model.params, begin.config, begin.tokenizer,
            source=begin.source, dtype=config.export_dtype or None, card=card("pretrain", config, finals),
        )  # fmt: skip
        console.print(f"for transformers: {run.folder / 'hf'}")
    report(run.folder)
    run.write_summary({
        "finished": True, "steps": arguments["steps"], "best_step": fitted.position, "final": finals,
        "last": {k: x for line in fitted.log for k, x in line.items()}, "best": chosen,
        "compile_s": fitted.compile_s, "wall_s": time.monotonic() - began,
    })  # fmt: skip
    console.print(f"curves: {run.folder / 'report.png'}   all of it: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    run_script(main, Config)
