"""Named entities: `ner.py` beside the Hugging Face Trainer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jaxllm.data.builtin import ner as builtin
from jaxllm.data.report import Report
from jaxllm.data.tagging.examples import label_set, usable_sentences
from jaxllm.data.tagging.load import load_tagged
from jaxllm.models.heads import TaggerConfig
from jaxllm.types import InputError
from workloads.encoders import beside_trainer, model_folder
from workloads.work import Asked, Work, peer, script


def prepare(asked: Asked, folder: Path) -> Work:
    """BERT on tagged sentences: `--dataset` names a folder with train.conll and dev.conll, `--model` one of a BERT."""
    batch_size = asked.batch_size or 16
    steps, untimed = asked.schedule(120 if asked.model or asked.size == "large" else 240)
    data = Path(asked.dataset).absolute() if asked.dataset else _write_conll(builtin.ner(), folder / "data")
    if missing := [name for name in ("train.conll", "dev.conll") if not (data / name).is_file()]:
        raise InputError(f"--dataset {asked.dataset}: no {' and no '.join(missing)} in it")
    sentences = functools.cache(lambda: usable_sentences(load_tagged(str(data))["train"], Report()))
    model = model_folder(
        asked, folder / "model", lambda: (" ".join(one.words) for one in sentences()),
        lambda trunk: TaggerConfig(trunk, label_set(sentences())),
    )  # fmt: skip
    ours = script(
        "ner.py", asked, steps, untimed, "--model", model, "--dataset", data, "--batch-size", batch_size,
        *(("--max-length", asked.max_length) if asked.max_length else ()),
    )  # fmt: skip
    theirs = peer(
        "hf_ner.py", asked, steps, untimed, "--model", model, "--dataset", data, "--seeds", 0,
        "--batch-size", batch_size, "--max-steps", steps,
    )  # fmt: skip
    rows = f"{batch_size} sentences"
    return beside_trainer(asked, rows, ours, theirs, "sorted by length", "--group-by-length")


def _write_conll(splits: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    for name in ("train", "dev"):
        sentences = (
            "\n".join(f"{word}\t{tag}" for word, tag in zip(row["tokens"], row["ner_tags"], strict=True))
            for row in splits[name]
        )
        (folder / f"{name}.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return folder
