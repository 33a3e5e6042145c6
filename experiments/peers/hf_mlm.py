"""The peer of this project's masked language models: the Hugging Face Trainer, in PyTorch, on the same texts.

It does what the official `run_mlm.py` example of transformers does, and nothing cleverer: texts one after another, cut
into rows that are all full (or a text a row, padded to the longest of the batch), tokens hidden by its own collator at
the same rate, dropout as the model states it, AdamW, a linear decay to 0 without warm-up. It imports neither jax nor
this project, so that its memory and its start-up are the Trainer's own.

    python experiments/peers/hf_mlm.py --model bert-base-cased --dataset train.jsonl --max-steps 60 \
        --untimed-steps 10 --json out.json
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
import tyro
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, set_seed

import trainer


@dataclasses.dataclass(frozen=True)
class Config(trainer.Config):
    """The Hugging Face Trainer on a masked language model of a file of texts: its speed."""

    mask_rate: float = 0.15
    """Share of the tokens that are to be predicted."""
    line_by_line: bool = False
    """A text a row, cut at --max-length, instead of all texts one after another in full rows."""


def features_of(config: Config, encoded: Any) -> list[dict[str, list[int]]]:
    """The rows of all texts, each with an attention mask of ones."""
    if config.line_by_line:
        rows = [ids for ids in encoded["input_ids"] if ids]
    else:
        whole, n = list(itertools.chain.from_iterable(encoded["input_ids"])), config.max_length
        rows = [whole[i : i + n] for i in range(0, len(whole) - n + 1, n)]
    if not rows:
        trainer.fail(f"{config.dataset}: the texts do not fill one row of {config.max_length} tokens; lower it")
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows]


def main(config: Config) -> None:
    """Trains, prints the rates, writes the JSON file."""
    texts = [row["text"] for row in trainer.read_rows(config)]
    set_seed(config.seed)  # before the model is made: a head that the folder lacks is initialised from it
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = AutoModelForMaskedLM.from_pretrained(config.model, dtype=torch.float32, use_safetensors=True)
    cut = {"truncation": True, "max_length": config.max_length} if config.line_by_line else {"verbose": False}
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.mask_rate)
    trainer.train(config, model, features_of(config, tokenizer(texts, **cut)), collate)


if __name__ == "__main__":
    main(tyro.cli(Config))
