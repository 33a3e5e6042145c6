"""Online training: a decoder samples completions, rewards score them, and GRPO or another loss learns from both.

    python experiments/online.py
    python experiments/online.py --model runs/sft-1a2b3c4d --dataset questions.jsonl --reward numeric+format:0.2 \
        --reward-args "format.pattern=.*[0-9]"
    python experiments/online.py --model runs/sft-1a2b3c4d --dataset questions.jsonl --loss dapo --dynamic-sampling 3 \
        --mask-truncated-completions
    python experiments/online.py --model runs/sft-1a2b3c4d --dataset questions.jsonl --loss dpo \
        --reward my_rewards.py:brief+model --reward-args path=runs/reward-1a2b3c4d

Papers: Shao et al. 2024, DeepSeekMath (GRPO); Guo et al. 2024, OAIF (online DPO); Agarwal et al. 2024, GKD (jsd); the
losses name theirs.
Expected: see experiments/README.md, which has the numbers and the time they took; experiments/LOG.md has what failed.

A round samples --num-generations completions for each prompt of --steps-per-generation batches, and makes
--num-iterations steps on each batch. The sampler is the model in training, with the same arrays on the same mesh. A
reward is a function on the host, or a reward model on the mesh; what it cannot score is left out and counted.
samples.jsonl in the run folder has the completions of each evaluation with their rewards.

With no flags a small Llama first learns a little of sorting letters by SFT, and then more by GRPO from whether its
answers are right.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import json
from typing import Any

from rich.markup import escape

import sft
from jaxllm import planning
from jaxllm.data.builtin.sorting import sorting
from jaxllm.evals.logps import per_token
from jaxllm.losses.tempered import at_temperature, values_at
from jaxllm.models.decoder import PRESETS
from jaxllm.recipes import adapters, online
from jaxllm.recipes.chat_start import start_chat
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.held_out import HeldOut
from jaxllm.recipes.help import MODEL, flag
from jaxllm.recipes.online import OnlineFlags
from jaxllm.recipes.prompts import encode_prompts, read_prompts
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.reference import load_start
from jaxllm.recipes.reward_model import RewardModel
from jaxllm.recipes.rewards import find_rewards
from jaxllm.recipes.rounds import Rounds
from jaxllm.recipes.rows import key_of, lines_of, summary_of
from jaxllm.recipes.scoring import Scorer
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import Session, open_session
from jaxllm.train.fit import fit
from jaxllm.train.forward import Runner

CONSTANT = {"schedule": "constant", "warmup": 0.0, "beta2": 0.999}
RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {"epochs": 1.0, "learning_rate": 1e-6, **CONSTANT},
    "adapters": {"epochs": 1.0, "learning_rate": 1e-5, **CONSTANT},
    "scratch": {"epochs": 1.0, "learning_rate": 8e-4, "schedule": "linear", "warmup": 0.05, "beta2": 0.98},
}
"""What flags that are not given are, by where the weights come from, and for adapters on them."""

LONGEST = 12
"""Tokens of a completion of the built-in task, at most: twice as many as an answer has."""


@dataclasses.dataclass(frozen=True)
class Config(OnlineFlags):
    """Online training."""

    RECIPES = RECIPES

    model: str = "tiny"
    teach_steps: int = flag(55, MODEL)
    """Steps of SFT on the built-in words to sort that a model from scratch begins with; 0 for none."""
    epochs: float | None = None  # type: ignore[assignment]
    batch_size: int = 32
    """Prompts per optimizer step, over all devices, each with --num-generations completions."""
    max_length: int = 128
    """Length of a prompt with its completion in tokens, at most; longer prompts are left out."""
    learning_rate: float | None = None  # type: ignore[assignment]
    schedule: str | None = None  # type: ignore[assignment]
    warmup: float | None = None  # type: ignore[assignment]
    beta2: float | None = None  # type: ignore[assignment]
    weight_decay: float = 0.0


def settle(config: Config) -> Config:
    """Fills in what was not given from the recipe for these weights, and for the built-in task."""
    longest = config.max_completion_length or (LONGEST if config.dataset == "builtin" else 64)
    return dataclasses.replace(fill_in(config, RECIPES), max_completion_length=longest)


def taught(config: Config, session: Session) -> Config:
    """The flags with a model to start from: of a preset, on the built-in task, one that SFT has taught a little."""
    if config.dataset != "builtin" or config.model not in PRESETS or not config.teach_steps or planning.current():
        return config
    folder = session.run.folder / "taught"
    (folder / "words").mkdir(parents=True, exist_ok=True)
    for name, rows in sorting().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "words" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    session.console.print("[bold]SFT[/bold]")
    sft.main(sft.Config(
        model=config.model, tokenizer=config.tokenizer or "char", dataset=str(folder / "words"),
        columns="completion=answer", steps=config.teach_steps, learning_rate=3e-3, batch_size=128, max_length=32,
        samples=0, eval_every="0", checkpoint_every="0", log_every=100, seed=config.seed, mesh=config.mesh,
        log_to=config.log_to, out=str(folder / "run"),
    ))  # fmt: skip
    session.console.print(f"[bold]{config.loss}[/bold]")
    return dataclasses.replace(config, model=str(folder / "run"), tokenizer="")


def main(config: Config) -> None:
    """Reads, samples and trains in turn, evaluates, shows and exports."""
    config = settle(config)
    online.check(config)
    loss = online.find_loss(config)
    session = open_session("online", config)
    console, mesh = session.console, session.mesh
    rewards = find_rewards(config.reward, config.reward_args, {"model": RewardModel(mesh, config.dtype)})
    splits = read_prompts(config, sorting, [one.columns for one in rewards])
    scorer = Scorer(rewards, config.reward_timeout)
    first = splits["train"].rows[0]
    if planning.current() is None:
        scorer.check(first.text, first.row)
    start = taught(config, session)
    texts = [one.text for one in splits["train"].rows]
    base = session.dated(start_chat(start, texts, key_of(texts)))
    begin = adapters.apply(base, start)

    longest = config.max_length - config.max_completion_length
    why = "which is --max-length less --max-completion-length"
    prompts = {name: encode_prompts(split, begin, longest, why) for name, split in splits.items()}
    kept, tokens = prompts["train"]
    model, ends = online.with_teacher(start, begin), begin.special_tokens.ends
    policy_loss = loss.kind in ("completions", "")
    temperature = config.temperature if policy_loss else 1.0

    def decode(ids: Any) -> str:
        return str(begin.tokenizer.decode(ids, skip_special_tokens=True))

    reference, frozen = None, None
    if loss.reference or config.reward_kl:
        if begin is base and planning.current() is None:
            frozen = load_start(base, mesh, config.seed)
        own, kept_programs = base.model.graphdef, {}  # type: ignore[var-annotated]

        def reference(policy: Runner) -> Runner:
            """The first model: a copy, or what the adapters are on."""
            params = {name: policy.params[name] for name in own.abstract}
            return frozen or Runner(own, params, mesh, kept_programs)

    rounds = Rounds(
        tokens, [one.text for one in kept], [one.row for one in kept], decode, ends, begin.model.graphdef, scorer,
        online.batches_of(config, loss, begin, mesh, scorer, max(map(len, tokens))), online.settings_of(config),
        reference, policy_loss, lambda line: console.print(line, markup=False), values_at(per_token, temperature),
    )  # fmt: skip
    arguments = fit_arguments(config, rounds.plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [
        *lines_of(splits, "prompts"),
        ("rounds", f"{rounds.settings.steps} steps on {config.batch_size * config.steps_per_generation} prompts with "
                   f"{config.num_generations} completions each; {rounds.plan.steps} steps an epoch"),
        ("rewards", " + ".join(f"{one.weight:g} {one.name}" for one in rewards)),
    ])  # fmt: skip

    left = [config.shown]

    def show(prompt: str, completion: str, ended: bool, reward: float) -> None:
        if left[0] > 0:
            console.print(f"[dim]{escape(prompt)}[/dim]\n  {escape(completion)}{'' if ended else ' [dim]...[/dim]'}"
                          f" [dim]reward {reward:.2f}[/dim]")  # fmt: skip
        left[0] -= 1

    def evaluation(split: str) -> HeldOut:
        rows, ids = prompts[split]
        chosen = range(0, len(rows), max(1, len(rows) // (config.eval_prompts or len(rows))))
        chosen = chosen[: config.eval_prompts or None]
        return HeldOut(
            [ids[i] for i in chosen], [rows[i].text for i in chosen], [rows[i].row for i in chosen], decode, ends,
            begin.model.graphdef, scorer, config.eval_generations, config.max_completion_length, config.temperature,
            config.right, config.seed, session.run.folder / "samples.jsonl", lambda: rounds.position, show,
        )  # fmt: skip

    fitted = fit(
        model, loss=at_temperature(loss, temperature), data=rounds, optimizer=optim_config(config),
        run=session.describing(begin), mesh=mesh, eval_first=True,
        evals={name: evaluation(name) for name in ("dev",) if name in prompts}, **arguments,
    )  # fmt: skip
    before = {name: x for line in fitted.log[:1] if line["step"] == 0 for name, x in line.items() if "dev/" in name}
    for name in ("accuracy", "reward"):
        if f"dev/{name}" in before:
            console.print(f"before   dev/{name} {before[f'dev/{name}']:.4f}")
    failures = {f"{name}: {kind}": count for (name, kind), count in scorer.failures.items()}
    session.finish(
        begin, fitted, arguments["steps"], before=before, reward_failures=failures,
        **summary_of(splits),
    )  # fmt: skip


if __name__ == "__main__":
    run_script(main, Config)
