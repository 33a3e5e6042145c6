"""Reward model: a decoder learns to give the better of two answers the higher number.

    python experiments/reward.py
    python experiments/reward.py --model Qwen/Qwen2.5-0.5B-Instruct --dataset trl-lib/ultrafeedback_binarized
    python experiments/reward.py --model runs/sft-1a2b3c4d --dataset pairs.jsonl --loss-args center=0.01
    python experiments/reward.py --model runs/reward-1a2b3c4d --dataset more_pairs.jsonl --lora-rank 16

Papers: Bradley and Terry 1952; Ouyang et al. 2022, InstructGPT, section 3.5; Touvron et al. 2023, Llama 2.
Expected: see experiments/README.md, which has the numbers and the time they took.

--model is a language model, which gets a new head, or a reward model (a run, or a folder or id of a sequence classifier
with one label), which goes on with its own. The reward of an answer is the head's number at its last token, the end
token. Both answers of a pair lie in one row of the batch and share their prompt. A `margin` column says by how much the
chosen answer is better. The export is what `AutoModelForSequenceClassification.from_pretrained` loads, with one label.

With no flags a small Llama that has learnt nothing yet learns whether an answer tells what a function does or what a
class is, as a question about Python's standard library wants.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
from typing import Any

from jaxllm.data.preference.answers import AnswerBatches, AnswerRows
from jaxllm.evals.preference import LossEval
from jaxllm.recipes import adapters
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.chat_start import start_chat
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import OPTIMISATION, flag
from jaxllm.recipes.losses import named_loss
from jaxllm.recipes.pairs import PairFlags, groups_of, layout_of, lines_of, read_pairs, texts_of
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.rows import key_of, summary_of
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.train.fit import fit
from jaxllm.types import InputError

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {"epochs": 1.0, "learning_rate": 1e-5},
    "adapters": {"epochs": 1.0, "learning_rate": 1e-4},
    "scratch": {"epochs": 1.0, "learning_rate": 1e-3},
}
"""What flags that are not given are, by where the weights come from, and for adapters on them."""


@dataclasses.dataclass(frozen=True)
class Config(PairFlags, LoraFlags):
    """Training of a reward model."""

    RECIPES = RECIPES

    loss: str = "bradley_terry"
    """Name of a loss of rewards: bradley_terry, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""
    epochs: float | None = None  # type: ignore[assignment]
    batch_size: int = 16
    """Pairs per optimizer step, over all devices; the number of rows follows from packing."""
    learning_rate: float | None = None  # type: ignore[assignment]
    head_learning_rate: float | None = flag(None, OPTIMISATION)
    """Learning rate of the head at the peak of the schedule; by default --learning-rate."""
    warmup: float = 0.1


def main(config: Config) -> None:
    """Reads, trains, evaluates and exports."""
    config = fill_in(config, RECIPES)
    loss = named_loss(config)
    if loss.kind not in ("rewards", ""):  # without a decorator a function may be a loss of anything
        raise InputError(f"--loss {config.loss} is no loss of rewards: use bradley_terry, or one of your own")
    session = open_session("reward", config)
    splits = read_pairs(config)
    if len(splits["train"].rows[0].answers) == 1:
        raise InputError(f"--dataset {config.dataset} has judged answers without rivals: a reward model wants pairs")
    texts = texts_of(splits["train"])
    start = start_chat(config, texts, key_of(texts_of(splits["train"])), "scorer")
    begin = adapters.apply(session.dated(start), config)
    layout, notes = layout_of(config, begin, closed=True)
    rows = {name: AnswerRows(part, layout) for name, part in groups_of(splits, config, begin).items()}
    plan = session.plan(rows["train"].lengths)
    arguments = fit_arguments(config, plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [*lines_of(splits), *(("", note) for note in notes), ("rows", plan.describe())])

    evals = {
        name: LossEval(loss, AnswerBatches(rows[name], session.eval_plan(rows[name].lengths)), begin.model.graphdef)
        for name in ("dev", "test") if name in rows
    }  # fmt: skip
    fitted = fit(
        begin.model, loss=loss, data=rows["train"].loader(plan), optimizer=optim_config(config),
        run=session.describing(begin), mesh=session.mesh, head=begin.config.head_parameters, evals=evals,
        **arguments,
    )  # fmt: skip
    session.finish(begin, fitted, arguments["steps"], **summary_of(splits))


if __name__ == "__main__":
    run_script(main, Config)
