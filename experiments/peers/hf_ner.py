"""The peer of this project's NER training: the Hugging Face Trainer, in PyTorch, on the same words.

It does what the official `run_ner.py` example of transformers does, and nothing cleverer: labels on the first sub-word
of each word, padding to the longest sentence of the batch, dropout as the model states it, AdamW, a linear decay to 0
without warm-up, float32. Dev scores come from seqeval (entities by the conlleval rule, not strict), after training.
It imports neither jax nor this project, so that its memory and its start-up are the Trainer's own.

BERT: Devlin et al. 2018, arXiv:1810.04805. WNUT-17: Derczynski et al. 2017, aclanthology.org/W17-4418.

    python experiments/peers/hf_ner.py --model all-MiniLM-L6-v2 --dataset wnut17
    python experiments/peers/hf_ner.py --model all-MiniLM-L6-v2 --dataset wnut17 --seeds 0 --max-steps 60 \
        --untimed-steps 5 --json out.json

Expected of the first command (MiniLM, 6 layers, width 384; torch 2.13 CPU, transformers 5.23): seed 0, dev F1 0.533,
precision 0.608, recall 0.475, after 871 s of training on two x86-64 cores that other work shared, so the time is an
upper bound. One seed, trained once: seeds 1 and 2 are not measured, so it says nothing of the spread.
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
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import measured

Sentence = tuple[list[str], list[str]]
"""Words, and one IOB2 tag for each."""

IGNORED = -100
"""The label that torch's cross entropy leaves out: special tokens, padding and all but the first sub-word of a word."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The Hugging Face Trainer on a folder of tagged sentences: scores and speed."""

    model: Path
    """Folder of a pretrained encoder: config.json, model.safetensors and its tokenizer."""
    dataset: Path
    """Folder with train.conll and dev.conll: token TAB tag, an empty line after each sentence."""
    learning_rate: float = 5e-5
    """At the first step; falls linearly to 0 at the last."""
    batch_size: int = 16
    """Sentences per step, in training and in evaluation."""
    epochs: int = 3
    """Passes over train.conll."""
    weight_decay: float = 0.01
    """AdamW's, on all but biases and norms."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each: the seed sets the classifier, the order and dropout."""
    group_by_length: bool = False
    """Make batches of sentences of like length instead of at random."""
    dtype: str = "float32"
    """That the model computes in: float32, or bfloat16 by autocast."""
    max_steps: int | None = None
    """Train for this many steps instead of whole epochs, and do not evaluate: for timing."""
    untimed_steps: int = 0
    """First steps that the rates leave out: warming up."""
    json: Path | None = None
    """File to write the results to."""


class Meter(TrainerCallback):
    """When each training step ended, and what each batch held.

    The data loader fetches one batch ahead, so what was collated by some moment is not what was trained by then: the
    two are kept apart, each in order, and matched by number.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pad = DataCollatorForTokenClassification(tokenizer)
        self.clock = measured.Steps()
        self.batches: list[tuple[int, int, int]] = []

    def collate(self, features: list[dict[str, Any]]) -> Any:
        """Sentences to one padded batch; notes its sentences, real tokens (special ones included) and padded ones."""
        batch = self.pad(features)
        mask_BT = batch["attention_mask"]
        self.batches.append((len(mask_BT), int(mask_BT.sum()), mask_BT.numel()))
        return batch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.step()

    def rates(self, untimed_steps: int) -> dict[str, float]:
        """Rates per second over the steps after the untimed ones; seconds of all steps."""
        steps = len(self.clock.times_s) - 1
        seconds = self.clock.seconds(untimed_steps)
        sentences, real, padded = np.sum(self.batches[untimed_steps:steps], axis=0).tolist()
        return {
            "steps": steps,
            "train_seconds": self.clock.seconds(0),
            "real_tokens_per_s": real / seconds,
            "padded_tokens_per_s": padded / seconds,
            "sentences_per_s": sentences / seconds,
        }


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr and exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def read_conll(path: Path) -> list[Sentence]:
    """Sentences of a file of `token TAB tag` lines."""
    if not path.is_file():
        fail(f"{path}: no such file; --dataset wants a folder with train.conll and dev.conll")
    sentences: list[Sentence] = [([], [])]
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            sentences.append(([], []))
            continue
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 2 or not all(fields):
            fail(f"{path}:{number}: {line!r} is not a token, one tab and a tag")
        for column, field in zip(sentences[-1], fields, strict=True):
            column.append(field)
    kept = [sentence for sentence in sentences if sentence[0]]
    if not kept:
        fail(f"{path}: no sentences; write token TAB tag, an empty line after each sentence")
    return kept


def encode(
    sentences: list[Sentence], tokenizer: PreTrainedTokenizerBase, label_ids: dict[str, int]
) -> list[dict[str, Any]]:
    """Features of each sentence, cut at the tokenizer's limit, the tag of each word on its first sub-word."""
    encodings = tokenizer([words for words, _ in sentences], is_split_into_words=True, truncation=True)
    features = []
    for row, (_, tags) in enumerate(sentences):
        word_ids = encodings.word_ids(row)
        labels = [
            IGNORED if word is None or word == before else label_ids[tags[word]]
            for before, word in zip([None, *word_ids], word_ids, strict=False)
        ]
        features.append({**{name: encodings[name][row] for name in encodings}, "labels": labels})
    return features


def entity_scores(prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
    """Entity F1, precision and recall (micro averages), read at the first sub-words."""
    predicted_BT = np.argmax(prediction.predictions, axis=-1)
    rows = [
        [(labels[p], labels[t]) for p, t in zip(*row, strict=True) if t != IGNORED]
        for row in zip(predicted_BT, prediction.label_ids, strict=True)
    ]
    predicted, true = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(score(true, predicted, zero_division=0)) for name, score in scores.items()}


def run(
    config: Config, seed: int, train: list[Sentence], dev: list[Sentence]
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Train with one seed: its rates and, unless `max_steps` cuts it short, its dev scores; and what it took, as
    `measured` has it."""
    labels = sorted({tag for _, tags in train + dev for tag in tags})
    label_ids = {label: i for i, label in enumerate(labels)}
    set_seed(seed)  # before the model is made: the classifier is initialised from it
    names = {"id2label": dict(enumerate(labels)), "label2id": label_ids}
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model = AutoModelForTokenClassification.from_pretrained(
            config.model, dtype=torch.float32, use_safetensors=True, **names
        )
    except (OSError, ValueError) as error:
        fail(f"{config.model}: {' '.join(str(error).split())}")
    meter = Meter(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            num_train_epochs=config.epochs,
            max_steps=-1 if config.max_steps is None else config.max_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length" if config.group_by_length else "random",
            seed=seed,
            use_cpu=measured.device().type == "cpu",
            bf16=config.dtype == "bfloat16",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=encode(train, tokenizer, label_ids),
            eval_dataset=encode(dev, tokenizer, label_ids),
            data_collator=meter.collate,
            compute_metrics=lambda prediction: entity_scores(prediction, labels),
            callbacks=[meter],
        )
        loss = trainer.train().training_loss
        rates = meter.rates(config.untimed_steps)
        took = meter.clock.report(config.untimed_steps, tokens_per_s=rates["real_tokens_per_s"])
        result = {"train_loss": loss, **rates}
        if config.max_steps is None:
            scores = trainer.evaluate(metric_key_prefix="dev")
            result |= {f"dev/{name}": scores[f"dev_{name}"] for name in ("f1", "precision", "recall", "loss")}
    return result, took


def main(config: Config) -> None:
    """Run each seed, print a line for each and their means, write the JSON file."""
    if not (config.model / "config.json").is_file():
        fail(f"{config.model}: no config.json in it; --model wants the folder of a pretrained encoder")
    if not config.seeds:
        fail("--seeds: none given; name at least one")
    train, dev = (read_conll(config.dataset / f"{split}.conll") for split in ("train", "dev"))
    if config.batch_size < 1:
        fail(f"--batch-size {config.batch_size}: must be at least 1")
    steps = config.epochs * -(-len(train) // config.batch_size) if config.max_steps is None else config.max_steps
    if not 0 <= config.untimed_steps < steps:
        fail(f"--untimed-steps {config.untimed_steps}: must leave at least one of the {steps} steps to time")
    setting = {
        "config": dataclasses.asdict(config),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
    }
    results: list[dict[str, float]] = []
    for seed in config.seeds:
        result, took = run(config, seed, train, dev)
        results.append({"seed": seed, **result})
        print(*(f"{name} {value:.4g}" for name, value in results[-1].items()), sep="  ", flush=True)
        means = {name: float(np.mean([result[name] for result in results])) for name in results[0] if name != "seed"}
        if config.json is not None:  # after each seed, so that a run cut short keeps the seeds it finished
            config.json.parent.mkdir(parents=True, exist_ok=True)
            report = {**setting, "seeds": results, "mean": means, "measured": took}
            config.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print("mean", *(f"{name} {value:.4g}" for name, value in means.items()), sep="  ")


if __name__ == "__main__":
    main(tyro.cli(Config))
