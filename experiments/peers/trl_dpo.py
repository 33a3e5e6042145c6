"""The peer of this project's preference tuning: TRL's DPOTrainer, in PyTorch, on the same pairs in the same order.

It is TRL as its documentation has it: pairs padded to the longest of the batch, the reference's log-probabilities
computed before training, AdamW, float32. It imports neither jax nor this project, so that its memory is TRL's own.

DPO: Rafailov et al. 2023, arXiv:2305.18290. TRL: github.com/huggingface/trl.

    python experiments/peers/trl_dpo.py --model MODEL --data pairs.jsonl --steps 60 --untimed-steps 20 --json out.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import tyro
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


@dataclasses.dataclass(frozen=True)
class Config:
    """TRL's DPO on a file of pairs: the loss of each step, and pairs per second."""

    model: Path
    """Folder of a causal language model with its tokenizer."""
    data: Path
    """JSON lines of prompt, chosen and rejected, which are taken in their order."""
    json: Path
    """File to write the results to."""
    steps: int = 60
    """Optimizer steps."""
    untimed_steps: int = 0
    """First steps that the rate leaves out."""
    batch_size: int = 16
    """Pairs a step."""
    learning_rate: float = 1e-3
    """Constant."""
    beta: float = 0.1
    """Of DPO."""
    max_length: int = 256
    """Tokens of prompt and answer together."""


class Meter(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times_s.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times_s.append(time.perf_counter())


def main(config: Config) -> None:
    """Trains and writes the results."""
    rows = [json.loads(line) for line in config.data.read_text(encoding="utf-8").splitlines()]
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            beta=config.beta,
            max_length=config.max_length,
            precompute_ref_log_probs=True,
            per_device_train_batch_size=config.batch_size,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        meter = Meter()
        trainer = DPOTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(pairs),
            processing_class=AutoTokenizer.from_pretrained(config.model),
            callbacks=[meter],
        )
        trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    losses = [line["loss"] for line in lines]
    seconds = meter.times_s[-1] - meter.times_s[config.untimed_steps]
    rate = (config.steps - config.untimed_steps) * config.batch_size / seconds
    config.json.write_text(
        json.dumps({"log": lines, "losses": losses, "pairs_per_s": rate, "threads": torch.get_num_threads()})
    )
    print(f"{rate:.1f} pairs/s, first losses {losses[:5]}")


if __name__ == "__main__":
    main(tyro.cli(Config))
