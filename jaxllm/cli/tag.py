"""`python -m jaxllm tag`: prints the entities in texts, found by a trained token classifier."""

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
from jaxllm.types import InputError, nearest

WORD = re.compile(r"\w+|[^\w\s]")
"""How running text is cut into words."""

Entity = dict[str, Any]
"""entity_group, score, word, start, end, as transformers' pipeline("token-classification") names them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of each text, with character offsets and scores."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, Hugging Face folder or id of a token classifier."""
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
    """Tokens of a window; longer texts are cut into overlapping windows."""


def tag(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text, sub-word by sub-word: transformers' aggregation_strategy="simple"."""
    windows, parts = ner.encode_text(texts, tokenizer, max_length)
    return [
        ner.group_entities(part, label, score, labels, tokenizer)
        for part, (label, score) in zip(parts, _predict(model, windows), strict=True)
    ]


def tag_words(
    model: Runner, tokenizer: Any, labels: Sequence[str], texts: Sequence[str], max_length: int
) -> list[list[Entity]]:
    """The entities of each text in whole words, each by the label of its first sub-word, which training teaches.

    transformers' aggregation_strategy="first" finds the same where its tokenizer marks sub-words, as BERT's does; for
    byte-level tokenizers, such as RoBERTa's, that takes a word with its punctuation for one word.
    """
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

    from jaxllm.distributed import mesh as meshes
    from jaxllm.recipes.weights import load_params, open_weights

    if config.aggregation not in ("first", "simple"):
        raise InputError(f"--aggregation {config.aggregation}: {nearest(config.aggregation, ('first', 'simple'))}")
    if config.words and config.aggregation != "first":
        raise InputError(f"--words means --aggregation first; leave it out for --aggregation {config.aggregation}")
    if not config.text:
        raise InputError("no text to tag: give one or more after the model")
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
