"""Classification of texts: `classify.py` beside the Hugging Face Trainer."""

from __future__ import annotations

import json
from pathlib import Path

from jaxllm.data.builtin.requests import SENTENCES, requests
from jaxllm.models.heads import ClassifierConfig
from jaxllm.types import InputError
from workloads.encoders import beside_trainer, model_folder
from workloads.masking import texts_of
from workloads.work import Asked, Work, peer, script


def prepare(asked: Asked, folder: Path) -> Work:
    """BERT on texts of one label: `--dataset` names a .jsonl of rows with text and label, `--model` a BERT's folder."""
    batch_size = asked.batch_size or 32
    steps, untimed = asked.schedule(60 if asked.model or asked.size == "large" else 120)
    data = Path(asked.dataset).absolute() if asked.dataset else _write_rows(folder / "train.jsonl")
    if not data.is_file():
        raise InputError(f"--dataset {asked.dataset}: no such file; give a .jsonl of rows with text and label")
    labels = tuple(sorted(SENTENCES))
    model = model_folder(asked, folder / "model", lambda: texts_of(data), lambda trunk: ClassifierConfig(trunk, labels))
    same = ("--model", model, "--dataset", data, "--batch-size", batch_size, "--max-length", asked.max_length or 128)
    ours = script("classify.py", asked, steps, untimed, *same, "--warmup", 0)
    theirs = peer("hf_classify.py", asked, steps, untimed, *same, "--max-steps", steps)
    return beside_trainer(asked, f"{batch_size} texts", ours, theirs, "sorted by length", "--group-by-length")


def _write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in requests()["train"]), encoding="utf-8")
    return path
