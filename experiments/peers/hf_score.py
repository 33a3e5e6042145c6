"""What PyTorch makes of an exported tagger: entity F1 on a file, and logits beside those of this project.

    python experiments/peers/hf_score.py --model runs/ner-1a2b3c4d/hf --data wnut17/dev.conll \
        --predictions runs/ner-1a2b3c4d/predictions.jsonl

It imports neither jax nor this project: transformers reads the folder, one sentence at a time goes through the model,
and the tag of a word is that of its first sub-word. A word without a sub-word, or past the tokenizer's limit, counts as
O, and is reported. With --predictions it says how many words were tagged otherwise there. With --logits it writes the
logits of the first sub-words, float32 [words, labels], in order (NaN for a word that has none).
Needs torch: pip install -e '.[bench]'. Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import tyro
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_ner import Sentence, fail, read_conll


@dataclasses.dataclass(frozen=True)
class Config:
    """Scores a folder that transformers loads, with PyTorch alone."""

    model: Path
    """Folder of a token classifier and its tokenizer, such as hf/ of a run."""
    data: Path
    """File of token TAB tag lines, an empty line after each sentence."""
    predictions: Path | None = None
    """predictions.jsonl of a run on the same file, to compare tags with."""
    logits: Path | None = None
    """.npy file to write the logits of the words to."""


def first_logits(model: torch.nn.Module, tokenizer: object, words: list[str]) -> list[np.ndarray | None]:
    """The logits [labels] at the first sub-word of each word; None for a word that was cut off or has no sub-word."""
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="pt")  # type: ignore[operator]
    with torch.inference_mode():
        logits_TL = model(**encoded).logits[0].numpy()
    first: list[np.ndarray | None] = [None] * len(words)
    for row_L, word in zip(logits_TL, encoded.word_ids(0), strict=True):
        if word is not None and first[word] is None:
            first[word] = row_L
    return first


def compare(path: Path, sentences: list[Sentence], ours: list[list[str]]) -> str:
    """How many words another's predictions.jsonl tags otherwise."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if [line["tokens"] for line in lines] != [words for words, _ in sentences]:
        fail(f"{path}: these are predictions for other sentences than --data has")
    pairs = [p for line, tags in zip(lines, ours, strict=True) for p in zip(line["predicted"], tags, strict=True)]
    return f"tagged otherwise in {path.name}: {sum(a != b for a, b in pairs)} of {len(pairs)} words"


def main(config: Config) -> None:
    """Reads, runs, scores."""
    if not (config.model / "config.json").is_file():
        fail(f"{config.model}: no config.json in it; --model wants a folder that transformers loads, such as RUN/hf")
    sentences = read_conll(config.data)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = AutoModelForTokenClassification.from_pretrained(config.model, dtype=torch.float32).eval()
    names = model.config.id2label
    found = [first_logits(model, tokenizer, words) for words, _ in sentences]
    tags = [["O" if row is None else names[int(row.argmax())] for row in sentence] for sentence in found]
    true = [tags for _, tags in sentences]
    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    print(*(f"{name} {score(true, tags, zero_division=0):.4f}" for name, score in scores.items()), sep="  ")
    if unseen := sum(row is None for sentence in found for row in sentence):
        print(f"{unseen} words without a sub-word, or past the tokenizer's limit, count as O")
    if config.predictions:
        print(compare(config.predictions, sentences, tags))
    if config.logits:
        nothing = np.full(len(names), np.nan, np.float32)
        np.save(config.logits, np.stack([nothing if row is None else row for rows in found for row in rows]))


if __name__ == "__main__":
    main(tyro.cli(Config))
