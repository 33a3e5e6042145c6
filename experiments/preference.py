"""Preference tuning: a decoder learns to prefer chosen answers to rejected ones, by DPO or any loss of its kind.

    python experiments/preference.py
    python experiments/preference.py --model Qwen/Qwen2.5-0.5B-Instruct --dataset trl-lib/ultrafeedback_binarized
    python experiments/preference.py --model runs/sft-1a2b3c4d --dataset pairs.jsonl --loss ipo --loss-args beta=0.05
    python experiments/preference.py --dataset pairs.jsonl --loss sigmoid:0.8+bco_pair:0.2+sft:1.0
    python experiments/preference.py --dataset pairs.jsonl --loss my_losses.py:margin --reference live

Paper: Rafailov et al. 2023, Direct Preference Optimization; the README lists the other losses with theirs.
Expected: see experiments/README.md, which has the numbers and the time they took.

Rows are pairs (prompt, chosen, rejected), or judged answers (prompt, completion, label) for losses such as kto;
data/preference/pairs.py has the shapes. Both answers of a pair lie in one row of the batch and share their prompt. The
reference's log-probabilities are computed once, before training, into a file that later runs find
(data/preference/reference_cache.py).

With no flags a small Llama that has learnt nothing yet is given questions about functions and classes of Python's
standard library, each with its answer and with one of the other kind: what a function does, what a class is. There is
nothing yet to keep close to, so the likelihood of the right answers is part of that loss. The modules that dev asks
about are in no question of train.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
from typing import Any

from jaxllm.data.preference.answers import AnswerBatches, AnswerRows, Group, add_mismatched
from jaxllm.evals.preference import LossEval, drift, log_ratios
from jaxllm.losses import Loss
from jaxllm.models.teacher import add_teacher
from jaxllm.recipes import adapters
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.chat_start import start_chat
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import LOSS, SAMPLING, flag
from jaxllm.recipes.losses import find_preference_loss
from jaxllm.recipes.pairs import PairFlags, groups_of, layout_of, lines_of, read_pairs, texts_of
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.reference import Reference, load_start, unknown
from jaxllm.recipes.rows import key_of, summary_of
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session, shown
from jaxllm.run.best import check_best
from jaxllm.train.fit import fit
from jaxllm.train.forward import Runner
from jaxllm.types import InputError

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {"epochs": 1.0, "learning_rate": 1e-6, "loss": "sigmoid"},
    "adapters": {"epochs": 1.0, "learning_rate": 1e-5, "loss": "sigmoid"},
    "scratch": {"epochs": 1.0, "learning_rate": 1e-3, "loss": "sigmoid+sft"},
}
"""What flags that are not given are, by where the weights come from, and for adapters on them."""


@dataclasses.dataclass(frozen=True)
class Config(PairFlags, LoraFlags):
    """Preference tuning."""

    RECIPES = RECIPES

    loss: str | None = None  # type: ignore[assignment]
    """Name of a loss (`python -m jaxllm losses`), a mixture like sigmoid:0.8+sft:0.2, or FILE.py:FUNCTION."""
    reference: str = flag("cached", LOSS)
    """When the reference's log-probabilities are computed: cached (once, before training, and kept in a file) or live
    (in each step, by a frozen copy of the model or LoRA's base)."""
    epochs: float | None = None  # type: ignore[assignment]
    batch_size: int = 16
    """Pairs per optimizer step, over all devices; the number of rows follows from packing."""
    learning_rate: float | None = None  # type: ignore[assignment]
    warmup: float = 0.1
    weight_decay: float = 0.0
    samples: int = flag(64, SAMPLING, operational=True)
    """Number of dev prompts to answer at the end, for the length and KL divergence from the reference; 0 for none."""
    sample_tokens: int = flag(64, SAMPLING, operational=True)
    """Length of each of these answers in tokens, at most."""


def settle(config: Config) -> Config:
    """Fills in what was not given from the recipe for these weights. Raises InputError for answers of no tokens."""
    if config.samples > 0 and config.sample_tokens < 1:
        raise InputError(f"--sample-tokens {config.sample_tokens}: give at least 1, or --samples 0 for no answers")
    return fill_in(config, RECIPES)


def fitting(groups: list[Group], loss: Loss, config: Config) -> list[Group]:
    """The groups with the mismatched answers that a loss may want. Raises InputError where it wants pairs."""
    if len(groups[0].answers) == 1 and loss.kind not in ("answers", ""):
        raise InputError(
            f"--loss {config.loss} compares the two answers of a pair, and --dataset {config.dataset} has judged "
            "answers without rivals: use kto or apo_zero_unpaired"
        )
    return add_mismatched(groups, config.max_length) if "mismatched" in loss.needs else groups


def main(config: Config) -> None:
    """Reads, scores by the reference, trains, evaluates, shows and exports."""
    config = settle(config)
    loss = find_preference_loss(config, config.reference)
    session = open_session("preference", config)
    console, mesh = session.console, session.mesh
    splits = read_pairs(config)
    base = session.dated(start_chat(config, texts_of(splits["train"]), key_of(texts_of(splits["train"]))))
    begin = adapters.apply(base, config)
    layout, notes = layout_of(config, begin)
    groups = {name: fitting(part, loss, config) for name, part in groups_of(splits, config, begin).items()}
    plan = session.plan(AnswerRows(groups["train"], layout).lengths)
    arguments = fit_arguments(config, plan)
    if session.finished(arguments["steps"]):
        return
    cached, model = loss.reference and config.reference == "cached", begin.model
    rows = {name: AnswerRows(part, layout, unknown(part) if cached else None) for name, part in groups.items()}

    def batches_of(split: str) -> AnswerBatches:
        return AnswerBatches(rows[split], session.eval_plan(rows[split].lengths))

    if cached and config.best:  # before the reference computes
        numbers = {"dev": LossEval(loss, batches_of("dev"), model.graphdef).numbers} if "dev" in rows else {}
        check_best(config.best, evals=numbers)
    session.header(begin, [*lines_of(splits), *(("", note) for note in notes), ("rows", plan.describe())])
    if loss.reference and not cached:
        # Adapters have their base as the teacher already.
        model = begin.model if begin is not base else add_teacher(base.model, base.model)
    elif cached:
        say = lambda line: console.print(f"{'':<8} reference of {line}", markup=False)  # noqa: E731
        reference = Reference(base, mesh, config.seed, layout, config.eval_batch_size, say)
        rows = {name: AnswerRows(part, layout, reference.logps(part, name)) for name, part in groups.items()}
        del reference  # and its parameters
    evals = {split: LossEval(loss, batches_of(split), model.graphdef) for split in ("dev", "test") if split in rows}
    fitted = fit(
        model, loss=loss, data=rows["train"].loader(plan), optimizer=optim_config(config),
        run=session.describing(begin), mesh=mesh,
        evals={split: x for split, x in evals.items() if split == "dev"}, **arguments,
    )  # fmt: skip

    finals = {k: x for line in fitted.log if line["step"] == fitted.position for k, x in line.items() if "dev/" in k}
    if "test" in evals:
        finals |= {f"test/{name}": x for name, x in evals["test"](fitted.model).items()}
    if config.samples and "dev" in rows:
        policy = Runner(begin.model.graphdef, {n: fitted.model.params[n] for n in begin.model.graphdef.abstract}, mesh)
        start = load_start(base, mesh, config.seed)
        prompts = [group.prompt for group in groups["dev"][: config.samples]]
        found = drift(
            policy, start, prompts, ends=begin.special_tokens.ends,
            max_tokens=min(config.sample_tokens, begin.config.max_positions - max(map(len, prompts))),
            batch_size=config.eval_batch_size, seed=config.seed,
        )  # fmt: skip
        finals |= {f"samples/{name}": x for name, x in found.items()}
        if len(splits["dev"].rows[0].answers) > 1:
            finals |= {f"dev/{name}": x for name, x in log_ratios(policy, start, batches_of("dev")).items()}
    console.print(f"\nstep {fitted.position}")
    for name, x in finals.items():
        console.print(f"  {name} {shown(x)}")
    lengths = rows["train"].lengths
    session.finish(
        begin, fitted, arguments["steps"], finals,
        **summary_of(splits), tokens_per_pair=float(lengths.sum()) / len(lengths),
    )  # fmt: skip


if __name__ == "__main__":
    run_script(main, Config)
