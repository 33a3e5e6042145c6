"""Classification of texts: `classify.py` beside the Hugging Face Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from jaxllm import hf
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.builtin.requests import SENTENCES, requests
from jaxllm.models import encoder
from jaxllm.models.heads import ClassifierConfig, describe_model
from jaxllm.types import InputError
from workloads.tagging import SIZES, VOCABULARY
from workloads.work import Asked, Peer, Work, of_size, peer, script


def prepare(asked: Asked, folder: Path) -> Work:
    """BERT on texts of one label: `--dataset` names a .jsonl of rows with text and label, `--model` a BERT's folder."""
    shape = of_size(asked, SIZES)
    batch_size = asked.batch_size or 32
    steps, untimed = asked.schedule(60 if asked.model or asked.size == "large" else 120)
    data = Path(asked.dataset).absolute() if asked.dataset else _write_rows(folder / "train.jsonl")
    if not data.is_file():
        raise InputError(f"--dataset {asked.dataset}: no such file; give a .jsonl of rows with text and label")
    model = Path(asked.model).absolute() if asked.model else _write_model(shape, data, folder / "model")
    same = ("--model", model, "--dataset", data, "--batch-size", batch_size, "--max-length", asked.max_length or 128)
    ours = script("classify.py", asked, steps, untimed, *same, "--warmup", 0)
    theirs = peer("hf_classify.py", asked, steps, untimed, *same, "--max-steps", steps)
    described = f"{asked.model or 'BERT, {depth} layers of width {width}'.format(**shape)}, {batch_size} texts"
    needs = ("torch", "accelerate")
    return Work(described, ours, {
        "Trainer": Peer("hf", needs, theirs),
        "Trainer, sorted by length": Peer("hf", needs, (*theirs, "--group-by-length")),
    })  # fmt: skip


def _write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in requests()["train"]), encoding="utf-8")
    return path


def _write_model(shape: dict[str, int], data: Path, folder: Path) -> Path:
    """A BERT with random weights and a tokenizer of these texts, for both sides."""
    rows = (json.loads(line) for line in data.read_text(encoding="utf-8").splitlines() if line.strip())
    tokenizer = builtin.wordpiece((row["text"] for row in rows), VOCABULARY, 512)
    trunk = encoder.Config(vocab_size=len(tokenizer), max_positions=512, **shape)
    config = ClassifierConfig(trunk, tuple(sorted(SENTENCES)))
    hf.export(folder, jax.jit(describe_model(config).init)(jax.random.key(0)), config, tokenizer)
    return folder
