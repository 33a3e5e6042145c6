"""`python -m jaxllm tag`: prints the entities in texts, found by a trained token classifier."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import tyro

from jaxllm.data.report import check_argument
from jaxllm.evals.tag import show, tag, tag_words
from jaxllm.train.forward import Runner
from jaxllm.types import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of each text, with character offsets and scores."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a token classifier."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to tag."""
    json: bool = False
    """Print a JSON line per text instead."""
    aggregation: str = "first"
    """As transformers' aggregation_strategy. first: whole words, by the label of the first sub-word, which is what
    training teaches; simple: each sub-word by its own label."""
    words: bool = False
    """The same as --aggregation first."""
    max_length: int = 512
    """Length of a window in tokens; longer texts are cut into overlapping windows."""


def main(config: Config) -> None:
    """Loads the model, tags, prints."""
    from rich.console import Console

    from jaxllm.distributed import mesh as meshes
    from jaxllm.recipes.weights import load_params, open_weights

    if config.aggregation not in ("first", "simple"):
        raise InputError(f"--aggregation {config.aggregation}: {nearest(config.aggregation, ('first', 'simple'))}")
    if config.words and config.aggregation != "first":
        raise InputError(f"--words means --aggregation first; leave it out for --aggregation {config.aggregation}")
    if not config.text:
        raise InputError("no text to tag: give one or more after the model")
    for text in config.text:
        check_argument(text, "the text")
    opened = open_weights(config.model, "tagger")
    tokenizer = opened.load_tokenizer()
    mesh = meshes.make_mesh()
    runner = Runner(opened.spec.graphdef, load_params(opened.spec, mesh), mesh)
    limit = min(config.max_length, opened.config.encoder.max_positions)
    console = Console(soft_wrap=True, highlight=False)
    find = tag_words if config.aggregation == "first" else tag
    found = find(runner, tokenizer, opened.config.labels, config.text, limit)
    for text, entities in zip(config.text, found, strict=True):
        if config.json:
            line = {"text": text, "aggregation": config.aggregation, "entities": [dict(e) for e in entities]}
            print(json.dumps(line, ensure_ascii=False))
            continue
        console.print(show(text, entities))
        for e in entities:
            console.print(f"  {e['start']:>4}-{e['end']:<4} {e['entity_group']:<14} {e['score']:.4f}  {e['word']}")
