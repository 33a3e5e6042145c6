"""The peer of `python -m jaxllm tag`: transformers' pipeline on the lines of a file, in PyTorch.

It imports neither jax nor this project. Each line of the output has the text and its entities, as the pipeline returns
them.

    python experiments/peers/hf_tag.py --model RUN/hf --texts sentences.txt --output entities.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
import tyro
from transformers import pipeline


@dataclasses.dataclass(frozen=True)
class Config:
    """transformers' pipeline("token-classification") on a file of sentences."""

    model: Path
    """Folder of a token classifier, as transformers writes it."""
    texts: Path
    """File with a sentence on each line."""
    output: Path
    """File to write: a JSON line per sentence."""
    aggregation: str = "first"
    """The pipeline's aggregation_strategy."""
    batch_size: int = 32
    """Sentences that the pipeline pads to one length and computes together."""


def main(config: Config) -> None:
    """Loads, tags and writes."""
    if not (config.model / "config.json").is_file():
        print(f"{config.model}: no config.json in it; --model wants the folder of a token classifier", file=sys.stderr)
        sys.exit(2)
    tagger = pipeline(
        "token-classification", model=str(config.model), aggregation_strategy=config.aggregation,
        batch_size=config.batch_size, device="cpu",
    )  # fmt: skip
    texts = config.texts.read_text(encoding="utf-8").split("\n")[:-1]
    with torch.inference_mode(), config.output.open("w", encoding="utf-8") as file:
        for text, entities in zip(texts, tagger(texts), strict=True):
            plain = [{**entity, "score": float(entity["score"])} for entity in entities]
            file.write(json.dumps({"text": text, "entities": plain}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
