"""The peer of this project's classification of texts: the Hugging Face Trainer, in PyTorch, on the same rows.

It does what the official `run_classification.py` example of transformers does, and nothing cleverer: padding to the
longest text of the batch, dropout as the model states it, AdamW, a linear decay to 0 without warm-up. It imports
neither jax nor this project, so that its memory and its start-up are the Trainer's own.

    python experiments/peers/hf_classify.py --model all-MiniLM-L6-v2 --dataset train.jsonl --max-steps 60 \
        --untimed-steps 10 --json out.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import transformers
import tyro
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """The Hugging Face Trainer on a file of texts with one label each: its speed."""

    model: Path
    """Folder of an encoder: config.json, model.safetensors and its tokenizer."""
    dataset: Path
    """A .jsonl of rows with text and label."""
    max_length: int = 128
    """Length of the longest text, in tokens."""
    learning_rate: float = 5e-5
    """At the first step; falls linearly to 0 at the last."""
    batch_size: int = 32
    """Texts per step."""
    weight_decay: float = 0.01
    """AdamW's, on all but biases and norms."""
    seed: int = 0
    """Of the classifier, the order and dropout."""
    group_by_length: bool = False
    """Make batches of texts of like length instead of at random."""
    dtype: str = "float32"
    """That the model computes in: float32, or bfloat16 by autocast."""
    max_steps: int = 60
    """Length of the run in steps."""
    untimed_steps: int = 10
    """First steps that the rates leave out: warming up."""
    json: Path | None = None
    """File to write the results to."""


class Meter(TrainerCallback):
    """When each training step ended, and what each batch held: collated one ahead, so matched by number."""

    def __init__(self, tokenizer: Any) -> None:
        self.pad = DataCollatorWithPadding(tokenizer)
        self.clock = measured.Steps()
        self.batches: list[tuple[int, int]] = []

    def collate(self, features: list[dict[str, Any]]) -> Any:
        """Texts to one padded batch; notes its texts and real tokens (special ones included)."""
        batch = self.pad(features)
        self.batches.append((len(features), int(batch["attention_mask"].sum())))
        return batch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.step()


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr and exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def main(config: Config) -> None:
    """Trains, prints the rates, writes the JSON file."""
    if not (config.model / "config.json").is_file():
        fail(f"{config.model}: no config.json in it; --model wants the folder of an encoder")
    if not config.dataset.is_file():
        fail(f"{config.dataset}: no such file; --dataset wants a .jsonl of rows with text and label")
    if not 0 <= config.untimed_steps < config.max_steps:
        fail(f"--untimed-steps {config.untimed_steps}: must leave at least one of the {config.max_steps} steps to time")
    rows = [json.loads(line) for line in config.dataset.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = sorted({row["label"] for row in rows})
    set_seed(config.seed)  # before the model is made: the classifier is initialised from it
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        config.model, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=config.max_length)
    features = [
        {**{name: encoded[name][i] for name in encoded}, "labels": labels.index(row["label"])}
        for i, row in enumerate(rows)
    ]
    meter = Meter(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=0,
            per_device_train_batch_size=config.batch_size, max_steps=config.max_steps,
            weight_decay=config.weight_decay, max_grad_norm=1.0, seed=config.seed,
            train_sampling_strategy="group_by_length" if config.group_by_length else "random",
            use_cpu=measured.device().type == "cpu", bf16=config.dtype == "bfloat16", save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=features, data_collator=meter.collate, callbacks=[meter]
        )
        loss = trainer.train().training_loss
    texts, real = np.sum(meter.batches[config.untimed_steps : config.max_steps], axis=0).tolist()
    seconds = meter.clock.seconds(config.untimed_steps)
    took = meter.clock.report(config.untimed_steps, tokens_per_s=real / seconds)
    print(f"train_loss {loss:.4g}  tokens_per_s {real / seconds:.4g}  texts_per_s {texts / seconds:.4g}")
    if config.json is not None:
        setting = {
            "config": dataclasses.asdict(config), "threads": torch.get_num_threads(), "train_loss": loss,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }  # fmt: skip
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps({**setting, "measured": took}, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
