"""Packed batches from rows of each kind: texts, conversations, compared answers, tagged words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.api.model import Model
from jaxllm.data import sources
from jaxllm.data.chat.examples import examples
from jaxllm.data.chat.rows import dialogues
from jaxllm.data.files import Part
from jaxllm.data.loader import Loader, lengths, loader
from jaxllm.data.packing import Example, make_plan
from jaxllm.data.preference.answers import AnswerBatches, AnswerRows, Layout
from jaxllm.data.preference.pairs import comparisons, encode
from jaxllm.data.report import Report
from jaxllm.data.sources import Rows
from jaxllm.data.tagging import examples as tagging
from jaxllm.data.tagging.context import in_context
from jaxllm.data.text.token_cache import Marks, plain_encoder
from jaxllm.distributed.mesh import local_rows, put_batch, row_multiple
from jaxllm.evals.logps import answer_logps
from jaxllm.models.heads import trunk_of
from jaxllm.types import InputError

RowsLike = str | Sequence[Mapping[str, Any]]
"""Rows as dictionaries, or the train split of a file, folder or hub id."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of every step of `epochs` passes over the data, placed on the model's mesh when iterated.

    The batch of a step depends on the data, the seed and the step alone. `max_length`, in tokens, is by default 512,
    or the model's positions where those are fewer.
    """

    loader: Loader
    model: Model
    epochs: float
    notes: tuple[str, ...] = ()
    """Rows and positions used, left out and cut, a sentence each."""

    def __len__(self) -> int:
        return max(1, round(self.epochs * self.loader.plan.steps))

    def __iter__(self) -> Iterator[Any]:
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[Any]:
        """The batches of the steps from `start` to before `stop`."""
        mesh, rows = self.model.mesh, self.loader.plan.rows
        local = local_rows(mesh, rows)
        for batch in self.loader.iterate(start, stop, local):
            yield put_batch(batch, mesh, rows, local)


def text_batches(
    texts: Sequence[str],
    model: Model,
    *,
    batch_size: int,
    max_length: int | None = None,
    epochs: float = 1.0,
    seed: int = 0,
) -> Batches:
    """Batches to predict the next token of texts, each between the tokenizer's begin and end-of-text tokens.

    A text over `max_length` tokens is cut into pieces of that length, each of which predicts the next one's first
    token; one that spells a special token is taken as text. batch_size: pieces per step, on average over a pass;
    `batch.tokens_BT` has as many rows as they fill.
    Raises InputError where there is nothing to learn.
    """
    marks, limit, found = Marks.of(model.tokenizer), _limit(model, max_length), []
    for encoding in plain_encoder(model.tokenizer).encode_batch_fast(list(texts), add_special_tokens=False):
        tokens = np.array([marks.begin, *encoding.ids, marks.end], np.int32)
        for start in range(0, len(tokens) - 1, limit):
            piece = tokens[start : start + limit + 1]
            found.append(Example(piece[:-1], piece[1:], np.ones(len(piece) - 1, np.float32)))
    return _packed(found, model, batch_size, epochs, seed, (f"{len(texts):,} texts",))


def chat_batches(
    rows: RowsLike,
    model: Model,
    *,
    batch_size: int,
    max_length: int | None = None,
    epochs: float = 1.0,
    cut: str = "answer",
    seed: int = 0,
) -> Batches:
    """Batches to learn the answers of conversations and instructions; prompts carry no weight.

    rows: of any shape that `experiments/sft.py` reads, for example {"messages": [...]}, {"prompt", "completion"},
    {"question", "answer"} or {"instruction", "input", "output"}. batch_size: conversations per step, on average.
    cut: what of a row over `max_length` tokens is cut: "answer", "prompt", or "drop" for the whole row.
    Raises InputError that names the row, or where the tokenizer has no chat template for messages.
    """
    limit = _limit(model, max_length)
    report = Report()
    read, locations = dialogues(_rows(rows), report=report)
    found = examples(read, model.tokenizer, limit, where=locations.__getitem__, report=report, cut=cut)
    return _packed(found, model, batch_size, epochs, seed, (f"{report.kept:,} conversations", *report.lines()))


def pair_batches(
    rows: RowsLike,
    model: Model,
    *,
    reference: Model | None = None,
    batch_size: int,
    max_length: int | None = None,
    epochs: float = 1.0,
    cut: str = "answer",
    share_prompt: bool = True,
    seed: int = 0,
) -> Batches:
    """Batches of `Answers` for preference losses and reward models, a prompt once for both of its answers.

    rows: {"prompt", "chosen", "rejected"} or {"prompt", "completion", "label"}, as text or messages, of any shape that
    `experiments/preference.py` reads. reference: the model whose log-probabilities of the answers a loss compares with
    (often the model as loaded), computed here once; None for a loss without a reference, and for reward models.
    share_prompt: False repeats the prompt before each answer. Raises InputError that names the row.
    """
    limit = _limit(model, max_length)
    found, locations, report = comparisons(_rows(rows))
    groups = encode(found, model.tokenizer, limit, where=locations.__getitem__, report=report, cut=cut)
    layout, multiple = layout_for(model, share_prompt), row_multiple(model.mesh)
    logps = None
    if reference is not None:
        bare = AnswerRows(groups, layout)
        plan = make_plan(bare.lengths, batch_size=min(64, len(groups)), multiple=row_multiple(reference.mesh))
        logps = answer_logps(reference.runner, AnswerBatches(bare, plan))
    answers = AnswerRows(groups, layout, logps)
    plan = make_plan(answers.lengths, batch_size=batch_size, multiple=multiple, seed=seed)
    notes = (f"{report.kept:,} prompts with answers", *report.lines(), plan.describe())
    return Batches(answers.loader(plan), model, epochs, notes)


def tag_batches(
    rows: RowsLike, model: Model, *, batch_size: int, max_length: int | None = None, epochs: float = 1.0, seed: int = 0
) -> Batches:
    """Batches to learn the tag of each word: the label of its first sub-word, the others carry no weight.

    rows: {"tokens": words, "ner_tags": tags}, tags among `model.config.labels`. A sentence over `max_length` tokens is
    cut into overlapping windows. batch_size: sentences per step, on average. Raises InputError that names the row.
    """
    limit = _limit(model, max_length)
    context = model.config.document_context
    read = list(in_context(tagging.sentences(_rows(rows)), context))
    windows = tagging.encode(read, model.tokenizer, model.config.labels, limit, context)
    return _packed(windows.examples, model, batch_size, epochs, seed, (f"{len(read):,} sentences",))


def layout_for(model: Model, share_prompt: bool = True) -> Layout:
    """How answers lie in rows: those of a reward model end at the token that `transformers` takes the reward of."""
    if not hasattr(model.config, "decoder"):
        return Layout(share_prompt)
    source = model.start.source.hf_config if model.start.source else {}
    return Layout(share_prompt, closed=True, pad={**source, **model.start.tokens}.get("pad_token_id"))


def _packed(
    found: Sequence[Example], model: Model, batch_size: int, epochs: float, seed: int, notes: tuple[str, ...]
) -> Batches:
    plan = make_plan(lengths(found), batch_size=batch_size, multiple=row_multiple(model.mesh), seed=seed)
    return Batches(loader(found, plan), model, epochs, (*notes, plan.describe()))


def _rows(rows: RowsLike) -> Rows:
    if isinstance(rows, str):
        return sources.load(rows)["train"]
    return Rows([Part("rows", [dict(row) for row in rows])])


def _limit(model: Model, max_length: int | None) -> int:
    """`max_length`, checked; by default 512, or the model's positions where those are fewer."""
    positions = (getattr(model.config, "encoder", None) or trunk_of(model.config)).max_positions
    if max_length is None:
        return min(512, positions)
    if not 1 <= max_length <= positions:
        raise InputError(f"max_length={max_length}: the model has positions for 1 to {positions} tokens")
    return max_length
