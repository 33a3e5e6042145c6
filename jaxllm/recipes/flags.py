"""The flags that every training script has, by topic, and what they mean to `fit`.

A script's Config inherits `Common`, so that `config.learning_rate` and a run's config.json are flat. TOPIC names the
group of `--help` in which the fields that a class introduces stand; a field given by `flag` names its own. A field that
a subclass declares again keeps its group, and its description too unless the subclass gives another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import tyro

from jaxllm.data.loader import Steps
from jaxllm.data.report import MAX_BAD_ROWS
from jaxllm.data.splits import parse_splits
from jaxllm.models.remat import REMAT
from jaxllm.recipes.checks import BELOW_1, COUNT, FINITE, POSITIVE, check_numbers
from jaxllm.recipes.help import DATA, DEVICES, EVALUATION, LOGGING, LOSS, MODEL, OPTIMISATION, RUN
from jaxllm.run.best import check_best
from jaxllm.run.folder import operational
from jaxllm.run.metrics import LOG_TO
from jaxllm.train import moments
from jaxllm.train.optim import OptimConfig
from jaxllm.train.optimizers import OPTIMIZERS
from jaxllm.train.schedules import SCHEDULES
from jaxllm.types import InputError, check_one_of


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """Which model is trained, and in what precision it computes."""

    TOPIC = MODEL

    model: str = ""
    """Hugging Face id or folder, a run folder, or a built-in preset."""
    tokenizer: str = ""
    """Hugging Face id or folder of the tokenizer; by default the model's own."""
    dtype: str = "float32"
    """Type that the model computes in: float32 or bfloat16; parameters are kept in --param-dtype."""
    moments: str = "float32"
    """Type that the optimizer's moments are kept in between steps: float32, bfloat16 (rounded stochastically: half the
    memory) or int8 (in blocks: a quarter)."""
    param_dtype: str = "float32"
    """Type that parameters are kept in between steps: float32, or bfloat16, rounded stochastically."""
    remat: str = "none"
    """What the backward pass computes again to save memory: none; dots (all but matrix products), dots_no_batch (and
    attention's), attention (all but attention and its inputs), mlp (all but the MLP's matrix products), full (each
    layer from its input), or offload (that, with the inputs in the host's memory)."""


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """Which examples there are, and how they become rows."""

    TOPIC = DATA

    dataset: str = "builtin"
    """Hub id, folder, file or quoted pattern, here or at https://, gs://, s3:// or hf://; or `builtin` for the embedded
    corpus."""
    eval_dataset: str = ""
    """Hub id, folder or file to evaluate on; by default the dev and test splits of --dataset."""
    split: str = ""
    """Which of the data set's own splits or files is which, as in train=NAME,dev=NAME,test=NAME; several are joined by
    +. A NAME is a split of a hub or saved data set, a file with or without suffix (of shards: without number), a folder
    or a quoted pattern; by default their names tell."""
    max_length: int = 256
    """Length of the longest example, in tokens; longer ones are cut or split."""
    pack: bool = True
    """Put several examples in a row of --max-length tokens; --no-pack gives each a row of its own."""
    max_bad_rows: float = operational(MAX_BAD_ROWS)
    """Share of the rows that may be bad in their content (an empty answer, half of an emoji): they are left out and
    counted. The run stops where more are; 0 stops at the first."""


@dataclasses.dataclass(frozen=True)
class LossFlags:
    """What is minimised."""

    TOPIC = LOSS

    loss: str = "cross_entropy"
    """Name of a loss (`python -m jaxllm losses` lists them), FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""
    loss_args: tuple[str, ...] = ()
    """Arguments of the loss as NAME=VALUE, for example label_smoothing=0.1; by default the loss's own."""
    on_nan: str = "stop"
    """What to do when the loss or its gradient is not finite: stop, or skip (leave the step out and go on)."""


@dataclasses.dataclass(frozen=True)
class OptimFlags:
    """How long the model is trained, on how much at once, and how it is updated."""

    TOPIC = OPTIMISATION

    steps: int = 0
    """Length of the run in optimizer steps; 0 for as many as --epochs gives."""
    epochs: float = 3.0
    """Length of the run in passes over the training data; --steps wins."""
    batch_size: int = 16
    """Examples per optimizer step, over all devices; the number of rows follows from packing."""
    microbatches: int = 1
    """Parts that each batch is cut into, computed one after the other to save memory; the batch stays as large."""
    optimizer: Annotated[str, tyro.conf.arg(help=f"Optimizer: {', '.join(OPTIMIZERS)}.")] = "adamw"
    learning_rate: float = 5e-5
    """Learning rate at the peak of the schedule."""
    schedule: str = "linear"
    """Course of the learning rate after the warm-up: constant, linear, cosine, or wsd (hold, then decay)."""
    warmup: float = 0.0
    """Length of the linear warm-up in steps, or if below 1, as a share of all steps."""
    weight_decay: float = 0.01
    """Decoupled weight decay, multiplied by the learning rate; biases and norms have none."""
    beta2: float = 0.999
    """Decay rate per step of the optimizer's second moment."""
    max_grad_norm: float = 1.0
    """Global norm that the gradient is clipped to; 0 for no clipping."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are not trained: `embeddings.*`, `blocks[:4].*`, `!classifier.*`; by default none."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and dropout."""


@dataclasses.dataclass(frozen=True)
class DeviceFlags:
    """Which devices and processes compute, and how they share the work."""

    TOPIC = DEVICES

    mesh: str = operational("")
    """Devices per mesh axis (data, fsdp, tensor, context, expert), as in data=2,fsdp=4; by default all are on data."""
    strategy: str = operational("jit")
    """How the step runs on several devices: jit (sharded over the mesh) or pmap (a copy of the model on each)."""
    deterministic: bool = operational(False)
    """On GPUs, use only kernels that give the same bits every time, which are somewhat slower. CPUs always do."""
    coordinator: str = operational("")
    """HOST:PORT of process 0 of a run of several processes; by default found from TPU, Slurm or Open MPI."""
    processes: int = operational(0)
    """Number of processes of the run, with --coordinator; 0 to find it as the coordinator is found."""
    process_id: int = operational(-1)
    """Number of this process, from 0, with --coordinator; -1 to find it as the coordinator is found."""


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """When the model is evaluated, and what its numbers decide."""

    TOPIC = EVALUATION

    eval_batch_size: int = operational(64)
    """Examples per evaluation batch, over all devices."""
    eval_every: str = operational("epoch")
    """Steps between evaluations, or `epoch`; 0 for the end only."""
    best: str = operational("")
    """METRIC:max or METRIC:min, as in dev/f1:max: keep and export the best step; by default the last is exported."""
    early_stopping: int = 0
    """Number of evaluations in a row without a better --best after which the run ends; 0 for never."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What the run leaves on disk, and how it survives."""

    TOPIC = RUN

    out: str = operational("")
    """Run folder; by default runs/SCRIPT-HASH, a hash of the flags that define the experiment."""
    config: str = operational("")
    """config.json of a run whose flags are the defaults here; by default none. Flags that are given win."""
    checkpoint_every: str = operational("epoch")
    """Steps between checkpoints, or `epoch`; 0 for the end only."""
    checkpoint_minutes: float = operational(0.0)
    """Minutes between checkpoints, beside those of --checkpoint-every; 0 for none."""
    checkpoints: str = operational("")
    """Folder that all hosts share, or bucket (gs://...), for checkpoints; by default checkpoints/ in the run folder."""
    keep: int = operational(2)
    """Number of checkpoints to keep: the newest."""
    keep_every: int = operational(0)
    """Keep the checkpoints whose step is a multiple of this too; 0 for none."""
    check_replicas: bool = operational(True)
    """At each checkpoint, check that arrays which several devices hold are the same on all of them."""
    hang_timeout: float = operational(1800.0)
    """Seconds without progress after which the run prints where it hangs, and ends; 0 for never."""
    export: bool = operational(True)
    """At the end, write the model in Hugging Face's format to hf/ in the run folder."""
    export_dtype: str = operational("")
    """Type of the exported weights: float32, bfloat16 or float16; by default that of the weights in --model."""


@dataclasses.dataclass(frozen=True)
class LogFlags:
    """Where the numbers of the run go."""

    TOPIC = LOGGING

    log_to: tuple[str, ...] = operational(("terminal",))
    """Any of terminal, tensorboard and wandb, or none; metrics.jsonl in the run folder is always written."""
    log_every: int = operational(10)
    """Steps between logged lines."""
    wandb_project: str = operational("")
    """Project at Weights & Biases; by default $WANDB_PROJECT, else jaxllm."""
    wandb_entity: str = operational("")
    """User or team at Weights & Biases; by default $WANDB_ENTITY, else the account's own."""
    wandb_name: str = operational("")
    """Name of the run at Weights & Biases; by default $WANDB_NAME, else one that W&B makes up."""
    wandb_tags: tuple[str, ...] = operational(())
    """Tags of the run at Weights & Biases; by default those of $WANDB_TAGS, separated by commas."""


@dataclasses.dataclass(frozen=True)
class Common(LogFlags, RunFlags, EvalFlags, DeviceFlags, OptimFlags, LossFlags, DataFlags, ModelFlags):
    """Flags of every training script. Those that are operational may change when a run continues.

    The fields of the last base come first.
    """


def check(config: Common) -> None:
    """Raises InputError, naming the flag, for a value that a common flag cannot have."""
    if not config.dataset:
        raise InputError("--dataset is empty: name a file, folder or hub id, or builtin")
    parse_splits(config.split)
    choices: list[tuple[str, str, Iterable[str]]] = [
        ("--optimizer", config.optimizer, OPTIMIZERS),
        ("--schedule", config.schedule, SCHEDULES),
        ("--dtype", config.dtype, ("float32", "bfloat16")),
        ("--remat", config.remat, REMAT),
        ("--strategy", config.strategy, ("jit", "pmap")),
        ("--on-nan", config.on_nan, ("stop", "skip")),
        ("--moments", config.moments, moments.KINDS),
        ("--param-dtype", config.param_dtype, ("float32", "bfloat16")),
        ("--export-dtype", config.export_dtype, ("", "float32", "bfloat16", "float16")),
        *(("--log-to", log, LOG_TO) for log in config.log_to),
    ]
    for flag, given, known in choices:
        check_one_of(flag, given, known)
    check_numbers(
        config, COUNT, "batch_size", "eval_batch_size", "microbatches", "max_length", "log_every", "keep", "vocab_size"
    )
    check_numbers(
        config, FINITE, "steps", "epochs", "warmup", "weight_decay", "max_grad_norm", "early_stopping", "learning_rate",
        "checkpoint_minutes", "keep_every", "hang_timeout", "final_learning_rate", "head_learning_rate", "samples",
        "sample_tokens", "shown", "lora_rank",
    )  # fmt: skip
    if not 0 <= config.max_bad_rows <= 1:
        raise InputError(f"--max-bad-rows {config.max_bad_rows}: give a share from 0 to 1")
    check_numbers(config, POSITIVE, "lora_alpha")
    check_numbers(config, BELOW_1, "beta2", "dropout", "token_dropout", "lora_dropout")
    check_best(config.best, config.early_stopping)
    for name in ("eval_every", "checkpoint_every"):
        if (text := getattr(config, name)) != "epoch" and not text.isdigit():
            raise InputError(f"--{name.replace('_', '-')} {text}: give a number of steps, or epoch")


def optim_config(config: Common, **more: Any) -> OptimConfig:
    """The flags that configure the optimizer, with `more` in place of what they say."""
    names = {field.name for field in dataclasses.fields(OptimConfig)} & {f.name for f in dataclasses.fields(config)}
    return OptimConfig(**{name: getattr(config, name) for name in names} | more)


def total_steps(config: Common, plan: Steps) -> int:
    """The length of the run in optimizer steps: --steps, or what --epochs gives."""
    return config.steps or max(1, round(config.epochs * plan.steps))


def fit_arguments(config: Common, plan: Steps) -> dict[str, Any]:
    """The common flags as keyword arguments of `fit`."""

    def every(text: str) -> int:
        return plan.steps if text == "epoch" else int(text)

    same = (
        "strategy", "microbatches", "on_nan", "log_to", "log_every", "checkpoint_minutes", "keep", "keep_every",
        "early_stopping", "hang_timeout", "check_replicas", "seed",
    )  # fmt: skip
    return {
        **{name: getattr(config, name) for name in same},
        "wandb": {name: getattr(config, f"wandb_{name}") or None for name in ("project", "entity", "name", "tags")},
        "best": config.best or None,
        "checkpoints": config.checkpoints or None,
        "eval_every": every(config.eval_every),
        "checkpoint_every": every(config.checkpoint_every),
        "steps": total_steps(config, plan),
    }
