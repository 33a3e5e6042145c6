"""The peer of this project's classification of texts: the Hugging Face Trainer, in PyTorch, on the same rows.

It does what the official `run_classification.py` example of transformers does, and nothing cleverer: padding to the
longest text of the batch, dropout as the model states it, AdamW, a linear decay to 0 without warm-up. It imports
neither jax nor this project, so that its memory and its start-up are the Trainer's own.

    python experiments/peers/hf_classify.py --model all-MiniLM-L6-v2 --dataset train.jsonl --max-steps 60 \
        --untimed-steps 10 --json out.json
"""

from __future__ import annotations

import dataclasses

import torch
import tyro
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

import trainer


@dataclasses.dataclass(frozen=True)
class Config(trainer.Config):
    """The Hugging Face Trainer on a file of texts with one label each: its speed."""

    group_by_length: bool = False
    """Make batches of texts of like length instead of at random."""


def main(config: Config) -> None:
    """Trains, prints the rates, writes the JSON file."""
    rows = trainer.read_rows(config)
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
    sampling = "group_by_length" if config.group_by_length else "random"
    trainer.train(config, model, features, DataCollatorWithPadding(tokenizer), train_sampling_strategy=sampling)


if __name__ == "__main__":
    main(tyro.cli(Config))
