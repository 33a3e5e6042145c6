"""The Hugging Face Trainer as a peer: its flags, its clock, what it writes; it imports neither jax nor jaxllm."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """The Hugging Face Trainer on a file of texts: its speed."""

    model: Path
    """Folder of an encoder: config.json, model.safetensors and its tokenizer."""
    dataset: Path
    """A .jsonl of rows with text."""
    max_length: int = 128
    """Length of the longest row, in tokens."""
    learning_rate: float = 5e-5
    """At the first step; falls linearly to 0 at the last."""
    batch_size: int = 32
    """Rows per step."""
    weight_decay: float = 0.01
    """AdamW's, on all but biases and norms."""
    seed: int = 0
    """Of the parameters of a new head, the order and dropout."""
    dtype: str = "float32"
    """That the model computes in: float32, or bfloat16 by autocast."""
    max_steps: int = 60
    """Length of the run in steps."""
    untimed_steps: int = 10
    """First steps that the rates leave out: warming up."""
    json: Path | None = None
    """File to write the results to."""


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr and exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def read_rows(config: Config) -> list[dict[str, Any]]:
    """The rows of the file, after the flags have been checked."""
    if not (config.model / "config.json").is_file():
        fail(f"{config.model}: no config.json in it; --model wants the folder of an encoder")
    if not config.dataset.is_file():
        fail(f"{config.dataset}: no such file; --dataset wants a .jsonl of rows with text")
    if not 0 <= config.untimed_steps < config.max_steps:
        fail(f"--untimed-steps {config.untimed_steps}: must leave at least one of the {config.max_steps} steps to time")
    lines = config.dataset.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


class Meter(TrainerCallback):
    """When each training step ended, and what each batch held: collated one ahead, so matched by number."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.pad = collate
        self.clock = measured.Steps()
        self.batches: list[tuple[int, int]] = []

    def collate(self, features: list[dict[str, Any]]) -> Any:
        """Rows to one padded batch; notes its rows and real tokens (special ones included)."""
        batch = self.pad(features)
        self.batches.append((len(features), int(batch["attention_mask"].sum())))
        return batch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.step()


def train(
    config: Config, model: Any, features: Sequence[dict[str, Any]], collate: Callable[[Any], Any], **arguments: Any
) -> None:
    """Trains, prints the rates, writes the JSON file. arguments: more of TrainingArguments."""
    meter = Meter(collate)
    with tempfile.TemporaryDirectory() as folder:
        asked = TrainingArguments(
            output_dir=folder, learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=0,
            per_device_train_batch_size=config.batch_size, max_steps=config.max_steps,
            weight_decay=config.weight_decay, max_grad_norm=1.0, seed=config.seed,
            use_cpu=measured.device().type == "cpu", bf16=config.dtype == "bfloat16", save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, **arguments,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=asked, train_dataset=features, data_collator=meter.collate, callbacks=[meter]
        )
        loss = trainer.train().training_loss
    rows, real = np.sum(meter.batches[config.untimed_steps : config.max_steps], axis=0).tolist()
    seconds = meter.clock.seconds(config.untimed_steps)
    took = meter.clock.report(config.untimed_steps, tokens_per_s=real / seconds)
    print(f"train_loss {loss:.4g}  tokens_per_s {real / seconds:.4g}  rows_per_s {rows / seconds:.4g}")
    if config.json is not None:
        setting = {
            "config": dataclasses.asdict(config), "threads": torch.get_num_threads(), "train_loss": loss,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }  # fmt: skip
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps({**setting, "measured": took}, indent=2, default=str) + "\n")
