"""Masked language models: `mlm.py` beside the Hugging Face Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from jaxllm.data.builtin import stdlib
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.types import InputError
from workloads.encoders import beside_trainer, model_folder
from workloads.work import Asked, Work, peer, script

DOCUMENTS = 400
"""Of the embedded corpus, where no text is given."""


def prepare(asked: Asked, folder: Path) -> Work:
    """BERT on texts: `--dataset` names a .jsonl of rows with text, `--model` the folder of an encoder."""
    batch_size = asked.batch_size or 16
    steps, untimed = asked.schedule(60 if asked.model or asked.size == "large" else 120)
    data = Path(asked.dataset).absolute() if asked.dataset else _write_rows(folder / "train.jsonl")
    if not data.is_file():
        raise InputError(f"--dataset {asked.dataset}: no such file; give a .jsonl of rows with text")
    model = model_folder(asked, folder / "model", lambda: texts_of(data), lambda trunk: MaskedConfig(trunk))
    length = asked.max_length or 128
    same = ("--model", model, "--dataset", data, "--batch-size", batch_size, "--max-length", length)
    ours = script("mlm.py", asked, steps, untimed, *same, "--warmup", 0, "--holdout", 0)
    theirs = peer("hf_mlm.py", asked, steps, untimed, *same, "--max-steps", steps)
    return beside_trainer(
        asked, f"{batch_size} rows of {length} tokens", ours, theirs, "a text a row", "--line-by-line"
    )


def _write_rows(path: Path) -> Path:
    texts = list(stdlib.documents()["train"].values())[:DOCUMENTS]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def texts_of(path: Path) -> Iterator[str]:
    """The `text` of each row of a .jsonl."""
    lines = (line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    return (json.loads(line)["text"] for line in lines)
