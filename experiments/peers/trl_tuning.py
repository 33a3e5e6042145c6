"""The peer of this project's SFT, preference tuning and reward models: TRL's trainers, on the same rows in order.

It is TRL as its documentation has it: rows padded to the longest of the batch, AdamW, float32; for DPO the reference's
log-probabilities are computed before training. Gradient checkpointing and bfloat16, which TRL turns on by itself, are
off: they slow a small model on a CPU. TRL packs rows without mixing them up only where there is flash attention, that
is on GPUs. It imports neither jax nor this project, so that its memory is TRL's own.

DPO: Rafailov et al. 2023, arXiv:2305.18290. TRL: von Werra et al. 2020, github.com/huggingface/trl.

    python experiments/peers/trl_tuning.py --stage dpo --model path/to/llama --data pairs.jsonl \
        --steps 60 --json out.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import tyro
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

import measured

TRAINERS = {
    "sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer), "reward": (RewardConfig, RewardTrainer),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """TRL on a file of rows: the loss of each step, and rows per second."""

    model: Path
    """Folder of a causal language model with its tokenizer."""
    data: Path
    """JSON lines, taken in their order: prompt and completion for SFT; prompt, chosen and rejected for others."""
    json: Path
    """File to write the results to."""
    stage: Literal["sft", "dpo", "reward"] = "dpo"
    """Which trainer."""
    steps: int = 60
    """Optimizer steps."""
    untimed_steps: int = 0
    """First steps that the rate leaves out."""
    batch_size: int = 16
    """Rows a step: pairs, for DPO and reward models."""
    learning_rate: float = 1e-3
    """Constant."""
    beta: float = 0.1
    """Of DPO."""
    max_length: int = 256
    """Tokens of prompt and answer together."""
    dtype: str = "float32"
    """That the model computes in: float32, or bfloat16 by autocast."""


class Meter(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.clock = measured.Steps()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.step()


def tune(config: Config) -> dict[str, Any]:
    """Trains: the loss of each step, and rows per second."""
    rows = [json.loads(line) for line in config.data.read_text(encoding="utf-8").splitlines()]
    if config.stage == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(config.model, dtype=torch.float32, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    own = {"beta": config.beta, "precompute_ref_log_probs": True} if config.stage == "dpo" else {}
    settings, trainer_class = TRAINERS[config.stage]
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(
            output_dir=folder,
            max_length=config.max_length,
            per_device_train_batch_size=config.batch_size,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=config.dtype == "bfloat16",
            use_cpu=measured.device().type == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **own,
        )
        meter = Meter()
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(config.model),
            callbacks=[meter],
        )
        trainer.train()
    examples = (config.steps - config.untimed_steps) * config.batch_size
    speed = examples / meter.clock.seconds(config.untimed_steps)
    return {
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "measured": meter.clock.report(config.untimed_steps, examples_per_s=speed),
        "threads": torch.get_num_threads(),
    }


def main(config: Config) -> None:
    """Trains and writes the results."""
    results = tune(config)
    config.json.write_text(json.dumps(results))
    print(f"{results['measured']['examples_per_s']:.1f} rows/s, first losses {results['losses'][:5]}")


if __name__ == "__main__":
    main(tyro.cli(Config))
