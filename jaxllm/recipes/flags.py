"""The flags that every training script has, and what they mean to `fit`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import tyro

from jaxllm.data.loader import Steps
from jaxllm.losses import Loss, resolve
from jaxllm.run.folder import operational
from jaxllm.run.metrics import LOG_TO
from jaxllm.train.optim import OptimConfig
from jaxllm.train.optimizers import OPTIMIZERS
from jaxllm.train.schedules import SCHEDULES
from jaxllm.types import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Common:
    """Flags of every script. Those marked operational may change when a run continues."""

    model: str = ""
    """Hugging Face id or folder, a run folder, or a built-in preset."""
    tokenizer: str = ""
    """Hugging Face id or folder, if not the model's own."""
    dataset: str = "builtin"
    """Hub id, folder or file, or `builtin` for the embedded corpus."""
    eval_dataset: str = ""
    """Where the evaluation split comes from, if not the data set's own."""
    out: str = operational("")
    """Run folder; by default runs/<script>-<hash of what defines the experiment>."""
    config: str = operational("")
    """config.json of another run to start from; flags win."""
    steps: int = 0
    """Optimizer steps; 0 for what --epochs gives."""
    epochs: float = 3.0
    """Passes over the data."""
    batch_size: int = 16
    """Examples per optimizer step over all devices; rows follow from packing."""
    eval_batch_size: int = operational(64)
    """Examples per evaluation step over all devices."""
    pack: bool = True
    """Put several examples in a row, or one."""
    microbatches: int = 1
    """Cut each batch into so many, to save memory."""
    max_length: int = 256
    """Tokens of the longest example; longer ones are cut or split."""
    learning_rate: float = 5e-5
    """At the peak of the schedule."""
    schedule: str = "linear"
    """After warm-up: constant, linear, cosine, wsd (hold, then decay)."""
    warmup: float = 0.0
    """Steps of linear warm-up; below 1, a share of all steps."""
    weight_decay: float = 0.01
    """Decoupled; biases and norms are spared."""
    beta2: float = 0.999
    """Decay of the optimizer's second moment."""
    max_grad_norm: float = 1.0
    """Clip the gradient's global norm to this; 0 for no clipping."""
    optimizer: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adamw"
    freeze: tuple[str, ...] = ()
    """Patterns of parameters to leave as they are: `embeddings.*`, `blocks[:4].*`, `!classifier.*`."""
    dtype: str = "float32"
    """Of the computation: float32 or bfloat16. Parameters are float32."""
    remat: str = "none"
    """What the backward pass recomputes: none, dots, full."""
    mesh: str = operational("")
    """Devices per axis, such as data=2,fsdp=4; by default all on data."""
    strategy: str = operational("jit")
    """jit (sharded over the mesh) or pmap (a copy of the model per device)."""
    loss: str = "cross_entropy"
    """A name, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""
    loss_args: tuple[str, ...] = ()
    """Arguments of the loss, such as label_smoothing=0.1."""
    on_nan: str = "stop"
    """When the loss is not finite: stop, or skip the step."""
    seed: int = 0
    """Of initial parameters, order of the data, and dropout."""
    log_to: tuple[str, ...] = operational(("terminal",))
    """terminal, none, tensorboard, wandb; metrics.jsonl is always written."""
    log_every: int = operational(10)
    """Steps between logged lines."""
    eval_every: str = operational("epoch")
    """Steps between evaluations, or `epoch`; 0 for the end only."""
    checkpoint_every: str = operational("epoch")
    """Steps between checkpoints, or `epoch`; 0 for the end only."""
    checkpoint_minutes: float = operational(0.0)
    """Minutes after which to save a checkpoint too; 0 for never."""
    checkpoints: str = operational("")
    """Where they go: a folder that all hosts share, or a bucket (gs://...); by default below the run folder."""
    keep: int = operational(2)
    """Newest checkpoints to keep."""
    keep_every: int = operational(0)
    """Keep those at multiples of so many steps too; 0 for none."""
    best: str = operational("")
    """Keep and export the best step, such as dev/f1:max."""
    early_stopping: int = 0
    """Stop after so many evaluations without a better --best; 0 for never."""
    hang_timeout: float = operational(1800.0)
    """Seconds after which a step counts as hanging: the run says where, and ends; 0 for never."""
    check_replicas: bool = operational(True)
    """At each checkpoint, compare what devices hold in common."""
    deterministic: bool = operational(False)
    """On GPUs, only programs that give the same bits each time: somewhat slower. On CPU it is always so."""
    coordinator: str = operational("")
    """HOST:PORT of process 0, if the processes of the run are not found from TPU, Slurm or Open MPI."""
    processes: int = operational(0)
    """How many there are then."""
    process_id: int = operational(-1)
    """Which of them this is then, from 0."""
    export: bool = operational(True)
    """Write the model for transformers to hf/ at the end."""
    export_dtype: str = operational("")
    """float32, bfloat16 or float16; by default that of the source."""


def check(config: Common) -> None:
    """What can be wrong with the common flags alone. Raises InputError naming the flag."""
    _one_of("--optimizer", config.optimizer, OPTIMIZERS)
    _one_of("--schedule", config.schedule, SCHEDULES)
    _one_of("--dtype", config.dtype, ("float32", "bfloat16"))
    _one_of("--remat", config.remat, ("none", "dots", "full"))
    _one_of("--strategy", config.strategy, ("jit", "pmap"))
    _one_of("--on-nan", config.on_nan, ("stop", "skip"))
    _one_of("--export-dtype", config.export_dtype, ("", "float32", "bfloat16", "float16"))
    for log in config.log_to:
        _one_of("--log-to", log, LOG_TO)
    for name in ("batch_size", "eval_batch_size", "microbatches", "max_length", "log_every", "keep"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: at least 1 is needed")
    for name in (
        "steps", "epochs", "warmup", "weight_decay", "max_grad_norm", "early_stopping", "learning_rate",
        "checkpoint_minutes", "keep_every", "hang_timeout",
    ):  # fmt: skip
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: give a finite number, 0 or more")
    for name in ("eval_every", "checkpoint_every"):
        if (text := getattr(config, name)) != "epoch" and not text.isdigit():
            raise InputError(f"--{name.replace('_', '-')} {text}: give a number of steps, or epoch")


def optim_config(config: Common, **more: Any) -> OptimConfig:
    """The flags that are the optimizer's."""
    names = {field.name for field in dataclasses.fields(OptimConfig)} & {f.name for f in dataclasses.fields(config)}
    return OptimConfig(**{name: getattr(config, name) for name in names} | more)


def total_steps(config: Common, plan: Steps) -> int:
    """Optimizer steps of the run."""
    return config.steps or max(1, round(config.epochs * plan.steps))


def loss_arguments(texts: tuple[str, ...]) -> Mapping[str, str]:
    """("beta=0.2", ...) as a dictionary."""
    for text in texts:
        if "=" not in text:
            raise InputError(f"--loss-args {text}: give NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def token_loss(config: Common) -> Loss:
    """The loss of tokens that the flags name. Raises InputError for one that compares answers."""
    loss = resolve(config.loss, **loss_arguments(config.loss_args))
    if loss.kind in ("pairs", "pairs alone", "answers"):
        raise InputError(f"--loss {config.loss} compares answers: use experiments/preference.py, or a loss of tokens")
    if loss.kind == "rewards":
        raise InputError(f"--loss {config.loss} is a loss of rewards: use experiments/reward.py, or a loss of tokens")
    return loss


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
        "best": config.best or None,
        "checkpoints": config.checkpoints or None,
        "eval_every": every(config.eval_every),
        "checkpoint_every": every(config.checkpoint_every),
        "steps": total_steps(config, plan),
    }


def _one_of(flag: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise InputError(f"{flag} {given}: {nearest(given, filter(None, known))}")
