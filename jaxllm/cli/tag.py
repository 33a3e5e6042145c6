"""`python -m jaxllm tag`: entities in text, by a run or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxllm.data import ner
from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.windows import stitch
from jaxllm.evals.ner import outputs
from jaxllm.train.forward import Runner
from jaxllm.train.mesh import row_multiple
from jaxllm.types import InputError

Entity = dict[str, Any]
"""entity_group, score, word, start, end: as transformers' pipeline gives them with aggregation_strategy="simple"."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of each text, with character offsets and scores, like transformers' pipeline."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, Hugging Face folder or id of a token classifier."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to tag."""
    json: bool = False
    """Print a JSON line per text instead."""
    max_length: int = 512
    """Tokens of a window; longer texts are cut into overlapping windows."""


def tag(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text."""
    windows, parts = ner.encode_text(texts, tokenizer, max_length)
    if not windows.examples:
        return [[] for _ in texts]
    plan = make_plan(lengths(windows.examples), batch_size=64, multiple=row_multiple(model.mesh))
    found = outputs(model, windows, EvalBatches(windows.examples, plan))
    answers = zip(parts, stitch(windows, found["label"]), stitch(windows, found["score"]), strict=True)
    return [ner.group_entities(part, label, score, labels, tokenizer) for part, label, score in answers]


def show(text: str, entities: Sequence[Entity]) -> str:
    """The text with its entities in brackets, for a terminal."""
    shown, at = "", 0
    for e in entities:
        shown += f"{text[at : e['start']]}[bold]{text[e['start'] : e['end']]}[/bold][dim]({e['entity_group']})[/dim]"
        at = e["end"]
    return shown + text[at:]


def main(config: Config) -> None:
    """Loads the model, tags, prints."""
    from rich.console import Console

    from jaxllm import hf
    from jaxllm.params import materialize
    from jaxllm.train import mesh as meshes

    if not config.text:
        raise InputError("no text to tag: give one or more after the model")
    opened = hf.open_tagger(config.model)
    tokenizer = hf.load_tokenizer(str(opened.folder))
    mesh = meshes.make_mesh()
    shardings = meshes.shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules)
    runner = Runner(opened.spec.graphdef, materialize(opened.spec, shardings, 0), mesh)
    limit = min(config.max_length, opened.config.encoder.max_positions)
    console = Console(soft_wrap=True, highlight=False)
    for text, entities in zip(
        config.text, tag(runner, tokenizer, opened.config.labels, config.text, limit), strict=True
    ):
        if config.json:
            print(json.dumps({"text": text, "entities": [dict(e) for e in entities]}, ensure_ascii=False))
            continue
        console.print(show(text, entities))
        for e in entities:
            console.print(f"  {e['start']:>4}-{e['end']:<4} {e['entity_group']:<14} {e['score']:.4f}  {e['word']}")
