"""`python -m jaxllm tag`: entities in text, by a run or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import tyro

from jaxllm.evals.tag import show, tag, tag_words
from jaxllm.train.forward import Runner
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of each text, with character offsets and scores, like transformers' pipeline."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, Hugging Face folder or id of a token classifier."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to tag."""
    json: bool = False
    """Print a JSON line per text instead."""
    words: bool = False
    """Label whole words by their first sub-word, instead of each token by itself as the pipeline does."""
    max_length: int = 512
    """Tokens of a window; longer texts are cut into overlapping windows."""


def main(config: Config) -> None:
    """Loads the model, tags, prints."""
    from rich.console import Console

    from jaxllm import hf
    from jaxllm.distributed import mesh as meshes
    from jaxllm.params import materialize

    if not config.text:
        raise InputError("no text to tag: give one or more after the model")
    opened = hf.open_tagger(config.model)
    tokenizer = hf.load_tokenizer(str(opened.folder))
    mesh = meshes.make_mesh()
    graphdef = opened.spec.graphdef
    shardings = meshes.shardings(graphdef.abstract, mesh, opened.spec.rules, limits=graphdef.limits)
    runner = Runner(graphdef, materialize(opened.spec, shardings, 0), mesh)
    limit = min(config.max_length, opened.config.encoder.max_positions)
    console = Console(soft_wrap=True, highlight=False)
    find = tag_words if config.words else tag
    found = find(runner, tokenizer, opened.config.labels, config.text, limit)
    for text, entities in zip(config.text, found, strict=True):
        if config.json:
            print(json.dumps({"text": text, "entities": [dict(e) for e in entities]}, ensure_ascii=False))
            continue
        console.print(show(text, entities))
        for e in entities:
            console.print(f"  {e['start']:>4}-{e['end']:<4} {e['entity_group']:<14} {e['score']:.4f}  {e['word']}")
