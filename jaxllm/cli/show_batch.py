"""`python -m jaxllm show-batch`: prints the rows that a training step gets, with the trained tokens highlighted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from jaxllm.data import sources
from jaxllm.data.chat.columns import parse_columns
from jaxllm.data.loader import Loader, lengths, loader
from jaxllm.data.packing import Plan, make_plan
from jaxllm.data.preference.answers import AnswerRows
from jaxllm.data.preference.pairs import is_compared
from jaxllm.data.report import Report
from jaxllm.distributed.mesh import make_mesh, row_multiple
from jaxllm.hf.config import read_json
from jaxllm.recipes import dialogues, pairs
from jaxllm.recipes.chat_start import start_chat
from jaxllm.recipes.dialogues import DialogueFlags
from jaxllm.recipes.flags import check
from jaxllm.recipes.pairs import PairFlags
from jaxllm.recipes.rows import key_of, shape_lines
from jaxllm.recipes.start import Start
from jaxllm.run.folder import read_config
from jaxllm.types import Answers, Batch, InputError

OPEN, CLOSE = "⟦", "⟧"
"""Printed around trained tokens where there is no colour."""
LEARNT = "black on green"
SIDES = {1: "chosen", -1: "rejected", 0: "for the KL estimate"}


@dataclasses.dataclass(frozen=True)
class Config(DialogueFlags, PairFlags):
    """Prints rows of a batch as experiments/sft.py or preference.py would train on them, learned tokens highlighted.

    Takes the flags of these scripts, of which those of data, tokenizer and packing matter here, or a run folder.
    """

    source: Annotated[str, tyro.conf.Positional] = ""
    """Run folder, whose flags are the defaults here, or a data set as --dataset names it; by default --dataset."""
    script: str = ""
    """Script whose batch is shown: sft or preference; by default the run's, or the one that fits the data's columns."""
    step: int = 0
    """Number of the step whose batch is shown, from 0."""
    rows: int = 4
    """Number of rows to print, at most."""


class Piece(NamedTuple):
    """Part of a row: its segment, its role (prompt, chosen, rejected), its tokens, and which of them are trained on."""

    segment: int
    name: str
    tokens: Sequence[int]
    learnt: Sequence[bool]


class Shown(NamedTuple):
    """A step's batch, the source of each segment of each row, and lines of (word, text) to print above it."""

    batch: Batch | Answers
    places: list[list[str]]
    tokenizer: Any
    lines: list[tuple[str, str]]


def pieces(batch: Batch | Answers, row: int) -> list[Piece]:
    """The segments of a row; of a segment with a shared prompt, the prompt and then each answer.

    An answer begins with a copy of the prompt's last token. The last trained token is in the batch only as a target,
    and is shown too.
    """
    plain = batch.batch if isinstance(batch, Answers) else batch
    arrays = (plain.tokens_BT, plain.targets_BT, plain.weights_BT, plain.segments_BT)
    tokens_T, targets_T, weights_T, segments_T = (np.asarray(x)[row] for x in arrays)
    branches_T = np.zeros_like(segments_T) if plain.branches_BT is None else np.asarray(plain.branches_BT)[row]
    found = []
    for segment in range(1, int(segments_T.max(initial=0)) + 1):
        for branch in np.unique(branches_T[segments_T == segment]):
            at = np.flatnonzero((segments_T == segment) & (branches_T == branch))
            learnt = weights_T[at] != 0
            ids = [*tokens_T[at], *targets_T[at[-1:]][learnt[-1:]]]
            name = "" if plain is batch else "prompt"
            if isinstance(batch, Answers) and learnt.any():
                answer = np.asarray(batch.answer_BT)[row, at[np.argmax(learnt)]]
                name = SIDES[int(np.asarray(batch.side_BA)[row, answer])]
            found.append(Piece(segment, name, [int(x) for x in ids], [False, *learnt.tolist()][: len(ids)]))
    return found


def runs(piece: Piece) -> Iterator[tuple[list[int], bool]]:
    """Runs of tokens that are all trained on, or all not."""
    edges = [i for i in range(1, len(piece.tokens)) if piece.learnt[i] != piece.learnt[i - 1]]
    for start, stop in zip([0, *edges], [*edges, len(piece.tokens)], strict=True):
        yield list(piece.tokens[start:stop]), bool(piece.learnt[start])


def painted(piece: Piece, tokenizer: Any, colour: bool) -> Text:
    """A piece as text, with its special tokens."""
    text = Text()
    for ids, learnt in runs(piece):
        words = tokenizer.decode(ids, skip_special_tokens=False)
        text.append(words if colour or not learnt else f"{OPEN}{words}{CLOSE}", LEARNT if learnt and colour else None)
    return text


def resolved(config: Config) -> Config:
    """The config with the flags of the run that it names, and with the script filled in. Raises InputError."""
    folder = Path(config.source).expanduser()
    if config.source and (folder / "config.json").is_file() and "script" in read_json(folder / "config.json"):
        script, values = read_config(folder / "config.json")
        config = dataclasses.replace(config, script=config.script or script)
        taken: dict[str, Any] = {
            field.name: tuple(x) if isinstance(x := values[field.name], list) else x
            for field in dataclasses.fields(config)
            if field.name not in ("out", "config")
            and values.get(field.name) is not None
            and getattr(config, field.name) == field.default
        }
        config = dataclasses.replace(config, **taken)
    elif config.source:
        config = dataclasses.replace(config, dataset=config.source)
    if not config.script:
        first = {} if config.dataset == "builtin" else next(iter(sources.load(config.dataset, config.split)["train"]))
        paired = first and is_compared(first, parse_columns(config.columns))
        config = dataclasses.replace(config, script="preference" if paired else "sft")
    if config.script not in SCRIPTS:
        raise InputError(f"--script {config.script}: batches of {' and '.join(SCRIPTS)} can be shown")
    return config


def _sft(config: Config, multiple: int) -> Shown:
    splits = dialogues.read_dialogues(config)
    split = splits["train"]
    begin = start_chat(config, dialogues.texts_of(split), key_of(dialogues.texts_of(split)))
    examples = dialogues.examples_of(split, config, begin)
    plan = _plan(config, lengths(examples), multiple)
    kept = _kept(split.locations, split.report)
    places = [[kept[i] for i in row] for row in plan.step(config.step)]
    lines = [*shape_lines({"train": split}), *dialogues.lines_of({"train": split})]
    return _shown(loader(examples, plan), plan, places, begin, lines, config.step)


def _preference(config: Config, multiple: int) -> Shown:
    split = pairs.read_pairs(config)["train"]
    begin = start_chat(config, pairs.texts_of(split), key_of(pairs.texts_of(split)))
    layout, notes = pairs.layout_of(config, begin)
    groups = pairs.groups_of({"train": split}, config, begin)["train"]
    rows = AnswerRows(groups, layout)
    plan = _plan(config, rows.lengths, multiple)
    kept = _kept(split.locations, split.report)
    segments = 1 if layout.share else len(groups[0].answers)
    places = [[kept[i] for i in row for _ in range(segments)] for row in plan.step(config.step)]
    lines = [*shape_lines({"train": split}), *pairs.lines_of({"train": split}), *(("", note) for note in notes)]
    return _shown(rows.loader(plan), plan, places, begin, lines, config.step)


SCRIPTS: dict[str, Callable[[Config, int], Shown]] = {"sft": _sft, "preference": _preference}
"""The scripts whose batches can be shown."""


def _plan(config: Config, sizes: np.ndarray, multiple: int) -> Plan:
    return make_plan(
        sizes, batch_size=config.batch_size, multiple=multiple * config.microbatches, pack=config.pack, seed=config.seed
    )


def _kept(places: Sequence[str], report: Report) -> list[str]:
    gone = {place for some in report.dropped.values() for place in some}
    return [place for place in places if place not in gone]


def _shown(
    data: Loader, plan: Plan, places: list[list[str]], begin: Start, lines: list[tuple[str, str]], step: int
) -> Shown:
    notes = [("", note) for note in begin.notes]
    return Shown(data.batch(step), places, begin.tokenizer, [*notes, *lines, ("rows", plan.describe())])


def main(config: Config) -> None:
    """Reads, packs, and prints the rows of one step."""
    config = resolved(config)
    check(config)
    if config.step < 0 or config.rows < 1:
        raise InputError(f"--step {config.step} --rows {config.rows}: a step from 0, and at least one row")
    shown = SCRIPTS[config.script](config, row_multiple(make_mesh(config.mesh)))
    console = Console(soft_wrap=True, highlight=False)
    colour = console.color_system is not None
    for word, text in shown.lines:
        console.print(f"{word:<8} {text}", markup=False)
    plain = shown.batch.batch if isinstance(shown.batch, Answers) else shown.batch
    weights_BT, segments_BT = np.asarray(plain.weights_BT), np.asarray(plain.segments_BT)
    for row, places in enumerate(shown.places[: config.rows]):
        held, learnt = int((segments_BT[row] > 0).sum()), int((weights_BT[row] != 0).sum())
        console.print(f"\nrow {row}: {held} of {segments_BT.shape[1]} positions, {learnt} targets learnt", style="bold")
        for piece in pieces(shown.batch, row):
            head = f"{piece.segment}  {places[piece.segment - 1]}" + (f"  {piece.name}" if piece.name else "")
            console.print(head, style="dim", markup=False)
            console.print(painted(piece, shown.tokenizer, colour))
