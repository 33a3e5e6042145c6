"""`python -m jaxllm tag`: entities in text, by a run or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging.windows import stitch
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.ner import outputs
from jaxllm.train.forward import Runner
from jaxllm.types import InputError

WORD = re.compile(r"\w+|[^\w\s]")
"""How running text is cut into words."""

Entity = dict[str, Any]
"""entity_group, score, word, start, end: as transformers' pipeline gives them with aggregation_strategy="simple"."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of each text, with character offsets and scores, like transformers' pipeline."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a token classifier."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to tag."""
    json: bool = False
    """Print a line of JSON per text."""
    words: bool = False
    """Label whole words by their first sub-word; by default each token is labelled by itself, as the pipeline does."""
    max_length: int = 512
    """Length of a window in tokens; longer texts are cut into overlapping windows."""


def tag(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text, token by token as transformers' pipeline finds them."""
    windows, parts = ner.encode_text(texts, tokenizer, max_length)
    return [
        ner.group_entities(part, label, score, labels, tokenizer)
        for part, (label, score) in zip(parts, _predict(model, windows), strict=True)
    ]


def tag_words(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The same by words, each by the label of its first sub-word, which is what training taught."""
    spans = [[match.span() for match in WORD.finditer(text)] for text in texts]
    words = [[text[a:b] for a, b in found] for text, found in zip(texts, spans, strict=True)]
    windows = ner.encode([ner.Sentence(part, None, "text") for part in words], tokenizer, labels, max_length)
    found: list[list[Entity]] = []
    for text, at, (label, score) in zip(texts, spans, _predict(model, windows), strict=True):
        entities: list[Entity] = []
        for (start, end), number, p in zip(at, label.tolist(), score.tolist(), strict=True):
            letter, _, kind = labels[number].partition("-")
            if not kind:
                continue
            last = entities[-1] if entities else None
            gap = text[last["end"] : start].strip() if last else ""
            if last and letter != "B" and last["entity_group"] == kind and not gap:
                scores = [*last["scores"], p]
                last.update(end=end, word=text[last["start"] : end], scores=scores, score=sum(scores) / len(scores))
            else:
                word = text[start:end]
                entity = {"entity_group": kind, "score": p, "word": word, "start": start, "end": end}
                entities.append({**entity, "scores": [p]})
        found.append([{name: x for name, x in e.items() if name != "scores"} for e in entities])
    return found


def _predict(model: Runner, windows: ner.Windows) -> list[tuple[Any, Any]]:
    """Label number and probability of each token, or word, of each text."""
    if not windows.examples:
        return [(np.zeros(count, np.int32), np.zeros(count)) for count in windows.counts]
    plan = make_plan(lengths(windows.examples), batch_size=64, multiple=row_multiple(model.mesh))
    found = outputs(model, windows, EvalBatches(windows.examples, plan))
    return list(zip(stitch(windows, found["label"]), stitch(windows, found["score"]), strict=True))


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
