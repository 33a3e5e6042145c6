"""Named entities: `ner.py` beside the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxllm import hf
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.report import Report
from jaxllm.data.tagging.examples import label_set, usable_sentences
from jaxllm.data.tagging.load import load_tagged
from jaxllm.models import encoder
from jaxllm.models.heads import TaggerConfig, describe_model
from jaxllm.types import InputError
from workloads.work import Asked, Peer, Work, of_size, peer, script

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 128, "depth": 4, "heads": 4, "mlp_width": 512},
    "large": {"width": 384, "depth": 6, "heads": 12, "mlp_width": 1536},
}
"""Of BERT, where --model names none; the large one is MiniLM's, with a smaller vocabulary."""

VOCABULARY = 4096


def prepare(asked: Asked, folder: Path) -> Work:
    """BERT on tagged sentences: `--dataset` names a folder with train.conll and dev.conll, `--model` one of a BERT."""
    shape = of_size(asked, SIZES)
    batch_size = asked.batch_size or 16
    steps, untimed = asked.schedule(120 if asked.model or asked.size == "large" else 240)
    data = Path(asked.dataset).absolute() if asked.dataset else _write_conll(builtin.ner(), folder / "data")
    if missing := [name for name in ("train.conll", "dev.conll") if not (data / name).is_file()]:
        raise InputError(f"--dataset {asked.dataset}: no {' and no '.join(missing)} in it")
    model = Path(asked.model).absolute() if asked.model else _write_model(shape, data, folder / "model")
    ours = script(
        "ner.py", asked, steps, untimed, "--model", model, "--dataset", data, "--batch-size", batch_size,
        *(("--max-length", asked.max_length) if asked.max_length else ()),
    )  # fmt: skip
    theirs = peer(
        "hf_ner.py", asked, steps, untimed, "--model", model, "--dataset", data, "--seeds", 0,
        "--batch-size", batch_size, "--max-steps", steps,
    )  # fmt: skip
    described = f"{asked.model or 'BERT, {depth} layers of width {width}'.format(**shape)}, {batch_size} sentences"
    needs = ("torch", "accelerate")
    return Work(described, ours, {
        "Trainer": Peer("hf", needs, theirs),
        "Trainer, sorted by length": Peer("hf", needs, (*theirs, "--group-by-length")),
    })  # fmt: skip


def _write_conll(splits: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    for name in ("train", "dev"):
        sentences = (
            "\n".join(f"{word}\t{tag}" for word, tag in zip(row["tokens"], row["ner_tags"], strict=True))
            for row in splits[name]
        )
        (folder / f"{name}.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def _write_model(shape: dict[str, int], data: Path, folder: Path) -> Path:
    """A BERT with random weights and a tokenizer of these words, for both sides."""
    sentences = usable_sentences(load_tagged(str(data))["train"], Report())
    tokenizer = builtin.wordpiece((" ".join(one.words) for one in sentences), VOCABULARY, 512)
    config = TaggerConfig(encoder.Config(vocab_size=len(tokenizer), max_positions=512, **shape), label_set(sentences))
    hf.export(folder, jax.jit(describe_model(config).init)(jax.random.key(0)), config, tokenizer)
    return folder
