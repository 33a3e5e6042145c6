"""Flags of online training, and what follows from them: the loss, its reference, and how rounds are made."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxllm.distributed.mesh import row_multiple
from jaxllm.losses import Loss
from jaxllm.losses.tokens import TokenLoss, over_both
from jaxllm.models.heads import trunk_of
from jaxllm.models.teacher import add_teacher
from jaxllm.params import ModelSpec
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.checks import COUNT, NOT_NEGATIVE, check_numbers
from jaxllm.recipes.help import DATA, EVALUATION, LOSS, SAMPLING, flag
from jaxllm.recipes.losses import named_loss
from jaxllm.recipes.pairs import layout_of
from jaxllm.recipes.round_batches import Batches
from jaxllm.recipes.rounds import Settings
from jaxllm.recipes.rows import RowFlags
from jaxllm.recipes.scoring import Scorer
from jaxllm.recipes.start import Start
from jaxllm.recipes.weights import open_weights
from jaxllm.types import InputError, check_one_of

PREFERENCES = ("pairs", "pairs alone", "answers")
"""Kinds of losses that compare completions."""


@dataclasses.dataclass(frozen=True)
class OnlineFlags(RowFlags, LoraFlags):
    """Flags of training on completions that the model samples."""

    dataset: str = "builtin"
    """Hub id, folder or file with a column prompt or question, and those that the rewards read; `builtin` for letters
    to sort."""
    loss: str = "grpo"
    """A policy loss (grpo, dapo, gspo, rloo ...; `python -m jaxllm losses`), a preference loss, whose pairs are ranked
    by the reward, jsd with --teacher, or FILE.py:FUNCTION."""
    reward: str = flag("exact", LOSS)
    """Rewards as NAME:WEIGHT joined by +: exact, numeric (their column is `answer`), format, length, model (a reward
    model, --reward-args model.path=RUN), or FILE.py:FUNCTION of (prompt, completion, row)."""
    reward_args: tuple[str, ...] = flag((), LOSS)
    """Arguments of the rewards, as in exact.column=solution, format.pattern=..., length.longest=200; by default
    their own."""
    reward_timeout: float = flag(10.0, LOSS)
    """Seconds that a reward function may take for a completion; 0 for no limit."""
    baseline: str = flag("", LOSS)
    """What a reward is compared with: group (the mean of its group) or leave_one_out (that of the others); by default
    what the loss's paper has."""
    scale_rewards: str = flag("", LOSS)
    """What advantages are divided by: the deviation of the group, of the batch, or none; by default group, and none for
    dr_grpo."""
    reward_kl: float = flag(0.0, LOSS)
    """Times the KL from the first model, in nats, is taken off each reward; KL in the loss is --loss-args beta=0.04."""
    reward_kl_estimator: str = flag("k1", LOSS)
    """How a sampled token estimates that KL (Schulman 2020): k1 (the log-ratio), k2 or k3."""
    pairs: str = flag("best", LOSS)
    """For a preference loss, which completions are compared: best (the best with the worst) or all (every two)."""
    teacher: str = flag("", LOSS)
    """Model to learn from by --loss jsd: Hugging Face id or folder, or run folder."""
    num_generations: int = flag(8, SAMPLING)
    """Completions of each prompt, the group in which rewards are compared."""
    max_completion_length: int = flag(0, SAMPLING)
    """Length of a completion in tokens, at most; a prompt may have --max-length less this. 0 for 64, or 12 for
    letters to sort."""
    temperature: float = flag(1.0, SAMPLING)
    """Temperature of sampling; a policy loss computes its log-probabilities at it too."""
    steps_per_generation: int = flag(1, SAMPLING)
    """Batches of prompts that are sampled together, before a step is made on each."""
    num_iterations: int = flag(1, SAMPLING)
    """How often what was sampled is used."""
    dynamic_sampling: int = flag(0, SAMPLING)
    """How many times groups whose rewards are all alike are sampled again, from other prompts (DAPO); 0 for never."""
    mask_truncated_completions: bool = flag(False, SAMPLING)
    """Learn nothing from completions that did not end within --max-completion-length."""
    share_prompt: bool = flag(True, DATA)
    """Compute a prompt once for all its completions; --no-share-prompt repeats it before each of them."""
    eval_prompts: int = flag(200, EVALUATION, operational=True)
    """Number of dev prompts to complete at each evaluation, evenly spaced; 0 for all."""
    eval_generations: int = flag(8, EVALUATION, operational=True)
    """Completions to sample of each of them for pass@k; 0 for none."""
    right: float = flag(1.0, EVALUATION, operational=True)
    """What the first reward must be for a completion to count as right, for accuracy and pass@k."""
    shown: int = flag(3, EVALUATION, operational=True)
    """Number of completions to print at each evaluation."""


def check(config: OnlineFlags) -> None:
    """Raises InputError, naming the flag, for a value that cannot be."""
    check_numbers(config, COUNT, "num_generations", "max_completion_length", "steps_per_generation", "num_iterations")
    check_numbers(
        config, NOT_NEGATIVE, "dynamic_sampling", "eval_prompts", "eval_generations", "reward_timeout", "reward_kl"
    )
    if not 0 < config.temperature < float("inf"):
        raise InputError(f"--temperature {config.temperature}: give a number above 0; greedy groups would be all alike")
    for name, known in (
        ("baseline", ("", "group", "leave_one_out")), ("scale_rewards", ("", "group", "batch", "none")),
        ("pairs", ("best", "all")), ("reward_kl_estimator", ("k1", "k2", "k3")),
    ):  # fmt: skip
        check_one_of(f"--{name.replace('_', '-')}", getattr(config, name), known)
    if config.strategy == "pmap":
        raise InputError("--strategy pmap: what samples is sharded as jit does it; use --strategy jit")
    if config.max_completion_length >= config.max_length:
        raise InputError(
            f"--max-completion-length {config.max_completion_length} leaves no room for a prompt in --max-length "
            f"{config.max_length}: raise the latter"
        )


def find_loss(config: OnlineFlags) -> Loss:
    """The loss that `--loss` and `--loss-args` name. Raises InputError for one that the other flags do not suit."""
    loss = named_loss(config)
    distils = isinstance(loss.function, TokenLoss) and loss.function.over is over_both
    if loss.kind not in ("completions", "", *PREFERENCES) and not distils:
        raise InputError(
            f"--loss {config.loss} learns from tokens, labels or rewards that are given: use a policy loss, such as "
            "grpo, a preference loss, or jsd with --teacher"
        )
    if distils != bool(config.teacher):
        raise InputError(
            f"--loss {config.loss} learns from a teacher: give --teacher MODEL" if distils
            else f"--teacher {config.teacher}: --loss {config.loss} reads no teacher, leave it out"
        )  # fmt: skip
    policy = loss.kind in ("completions", "")
    for name, reads in (("baseline", policy), ("scale_rewards", policy), ("reward_kl", policy), ("pairs", not policy)):
        given = getattr(config, name)
        if not reads and given not in ("", 0, "best"):
            flag = f"--{name.replace('_', '-')} {given}"
            raise InputError(
                f"{flag}: --loss {config.loss} {'makes no pairs' if policy else 'has no advantages'}, leave it out"
            )
    if {"kl", "mismatched"} & {*loss.needs}:
        raise InputError(f"--loss {config.loss} reads more of the reference than sampled completions have: use another")
    if config.num_generations < 2 and not distils:
        raise InputError(
            f"--num-generations {config.num_generations}: --loss {config.loss} compares the completions of a prompt, "
            "give 2 or more"
        )
    if config.steps_per_generation * config.num_iterations > 1 and loss.kind == "" and not distils:
        raise InputError(f"--loss {config.loss} has no decorator: use @policy_loss, to use completions several times")
    if loss.couples_batch and config.microbatches > 1:
        raise InputError(f"--loss {config.loss} depends on the whole batch at once: use one microbatch")
    return loss


def with_teacher(config: OnlineFlags, begin: Start) -> ModelSpec:
    """The model in training, with the teacher of `--teacher` beside it. Raises InputError for another vocabulary."""
    if not config.teacher:
        return begin.model
    teacher = open_weights(config.teacher, "lm", dtype=config.dtype, remat=config.remat)
    here, there = trunk_of(begin.config).vocab_size, trunk_of(teacher.config).vocab_size
    if here != there:
        raise InputError(f"--teacher {config.teacher} has a vocabulary of {there:,}, the model one of {here:,}")
    return add_teacher(begin.model, teacher.spec)


def settings_of(config: OnlineFlags) -> Settings:
    """How a round is sampled and used."""
    return Settings(
        config.batch_size, config.num_generations, config.max_completion_length, config.temperature,
        config.steps_per_generation, config.num_iterations, config.dynamic_sampling, config.eval_batch_size * 8,
        config.seed,
    )  # fmt: skip


def batches_of(config: OnlineFlags, loss: Loss, begin: Start, mesh: Any, scorer: Scorer, longest: int) -> Batches:
    """How rounds become batches. longest: the longest prompt, in tokens."""
    multiple = row_multiple(mesh) * config.microbatches
    name = loss.name.partition(":")[0] if loss.mixed else loss.name
    baseline = config.baseline or ("leave_one_out" if name in ("rloo", "reinforce") else "group")
    if config.scale_rewards and baseline == "leave_one_out":
        raise InputError(f"--scale-rewards {config.scale_rewards}: leave_one_out divides by nothing, leave it out")
    return Batches(
        loss.kind or "completions", -(-config.batch_size // multiple) * multiple, longest,
        config.max_completion_length, config.num_generations, scorer.weights,
        baseline,  # type: ignore[arg-type]
        config.scale_rewards or ("none" if name == "dr_grpo" else "group"),  # type: ignore[arg-type]
        config.reward_kl, config.reward_kl_estimator,  # type: ignore[arg-type]
        config.mask_truncated_completions, config.pairs, layout_of(config, begin)[0],
    )  # fmt: skip
