"""`python -m jaxllm tag`: the entities in texts, files or standard input, found by a trained token classifier."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import tyro

from jaxllm.data import files
from jaxllm.data.remote import path_of
from jaxllm.data.report import check_argument
from jaxllm.data.tagging import chains, untagged
from jaxllm.data.tagging.context import in_context
from jaxllm.data.tagging.schemes import SCHEMES
from jaxllm.data.tagging.untagged import FORMATS, Line
from jaxllm.evals.aggregation import STRATEGIES
from jaxllm.evals.decoding import DECODE, find_chain
from jaxllm.evals.tag import join_words, label_words, show, tag
from jaxllm.run.folder import check_folder, whole_file
from jaxllm.train.forward import Runner
from jaxllm.types import InputError, check_one_of

CHUNK = 4096
"""Sentences that are read, packed and tagged at a time."""

WORDS = "words"


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds the entities of texts, of files or of standard input, with character offsets and scores."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a token classifier."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Texts to tag; without any, and without --input, standard input is read."""
    input: tuple[str, ...] = ()
    """Files to tag, - for standard input: a sentence on each line, or columns as CoNLL's, as the contents tell."""
    input_format: str = ""
    """lines or conll; by default told by the contents, and by the file's suffix."""
    word_column: str = ""
    """Column of the words in CoNLL's format: a number from 1, or from the end, or a name; by default found."""
    output: str = ""
    """File to write; by default standard output."""
    output_format: str = ""
    """json (a line per sentence), conll (the columns that were read, or words, with the tag as one more), or text; by
    default text for texts on the command line and json for files."""
    json: bool = False
    """The same as --output-format json."""
    aggregation: str = WORDS
    """words: each word of the text, or of the columns, by the label of its first sub-word, which is what training
    teaches. simple, first, max, average: transformers' aggregation_strategy of this name."""
    words: bool = False
    """The same as --aggregation words."""
    decode: str = ""
    """argmax: each word's own likeliest label. viterbi: the likeliest tags that the scheme allows. By default what the
    model was trained with: if that names none, the likeliest path of a CRF, and argmax without. With --aggregation
    words."""
    scheme: str = ""
    """Scheme of the model's labels, for --decode viterbi; by default told by the labels."""
    max_length: int = 512
    """Length of a window in tokens; longer texts are cut into overlapping windows."""


def check(config: Config) -> str:
    """Raises InputError for flags that do not go together; returns the format to write."""
    for flag, given, known in (
        ("--aggregation", config.aggregation, (WORDS, *STRATEGIES)), ("--input-format", config.input_format, FORMATS),
        ("--output-format", config.output_format, ("json", "conll", "text")), ("--decode", config.decode, DECODE),
        ("--scheme", config.scheme, SCHEMES),
    ):  # fmt: skip
        check_one_of(flag, given, ("", *known))
    by_words = config.aggregation == WORDS
    if config.words and not by_words:
        raise InputError(f"--words means --aggregation words; leave it out for --aggregation {config.aggregation}")
    if config.json and config.output_format not in ("", "json"):
        raise InputError(f"--json means --output-format json; leave it out for --output-format {config.output_format}")
    if config.decode == "viterbi" and not by_words:
        raise InputError(f"--decode viterbi is of whole words; leave out --aggregation {config.aggregation}")
    if config.text and config.input:
        raise InputError("texts are given, and --input too; give one of them")
    if config.max_length < 3:
        raise InputError(f"--max-length {config.max_length}: at least 3 is needed")
    if config.output:
        check_folder(Path(config.output).parent, "--output")
    kind = config.output_format or ("json" if config.json or not config.text else "text")
    if kind == "conll" and not by_words:
        raise InputError(f"--output-format conll has a tag for each word; leave out --aggregation {config.aggregation}")
    return kind


def main(config: Config) -> None:
    """Loads the model, tags, writes."""
    kind = check(config)
    for text in config.text:
        check_argument(text, "the text")
    source = _read(config)
    first = next(source, None)
    if first is None:
        raise InputError("no text to tag: give one or more after the model, or --input, or standard input")
    find, context = _finder(config)
    output: contextlib.AbstractContextManager[IO[str]] = contextlib.nullcontext(sys.stdout)
    if config.output:
        output = whole_file(Path(config.output))
    with output as file, _progress(hidden=bool(config.text)) as advance:
        write = {"json": _write_json, "conll": _write_conll, "text": _write_text}[kind]
        lines = in_context(itertools.chain([first], source), context)
        while chunk := list(itertools.islice(lines, CHUNK)):
            for line, entities, tags in zip(chunk, *find(chunk), strict=True):
                write(file, config, line, entities, tags)
            file.flush()
            advance(len(chunk))


Find = Callable[[Sequence[Line]], tuple[list[list[dict[str, Any]]], list[list[str]]]]
"""The entities of each sentence, and the tags of its words, of which there are none for a pipeline's strategy."""


def _finder(config: Config) -> tuple[Find, int]:
    """What finds entities, and the words of context that it wants beside each sentence."""
    from jaxllm.distributed import mesh as meshes
    from jaxllm.recipes.weights import load_params, open_weights

    opened = open_weights(config.model, "tagger")
    tokenizer, labels = opened.load_tokenizer(), opened.config.labels
    mesh = meshes.make_mesh()
    runner = Runner(opened.spec.graphdef, load_params(opened.spec, mesh), mesh)
    limit = min(config.max_length, opened.config.encoder.max_positions)
    decode = config.decode or opened.config.decode
    chain = find_chain(runner.params, labels, config.scheme or chains.scheme_of(labels), decode)

    context = opened.config.document_context

    def find(chunk: Sequence[Line]) -> tuple[list[list[dict[str, Any]]], list[list[str]]]:
        if config.aggregation != WORDS:
            found = tag(runner, tokenizer, labels, [line.text for line in chunk], limit, config.aggregation)
            return found, [[]] * len(chunk)
        sentences = [line.sentence("the input") for line in chunk]
        tagged = label_words(runner, tokenizer, labels, sentences, limit, chain, context)
        joined = [join_words(line.text, line.spans, *one) for line, one in zip(chunk, tagged, strict=True)]
        return joined, [tags for tags, _ in tagged]

    return find, context if config.aggregation == WORDS else 0


def _read(config: Config) -> Iterator[Line]:
    """The sentences to tag, one by one."""
    if config.text:
        yield from (untagged.running(text, number) for number, text in enumerate(config.text))
        return
    for name in config.input or ("-",):
        if name == "-":
            if not config.input and sys.stdin.isatty():
                return
            yield from untagged.read_lines("standard input", sys.stdin.buffer, config.input_format, config.word_column)
            continue
        path = path_of(name)
        if not path.is_file():
            raise InputError(f"--input {name}: no such file; check the path")
        kind = config.input_format or ("conll" if files.suffix_of(path) in files.COLUMN_SUFFIXES else "")
        with files.open_bytes(path) as file:
            yield from untagged.read_lines(name, file, kind, config.word_column)


@contextlib.contextmanager
def _progress(hidden: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal, with the sentences done and their rate."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda count: None
        return
    columns = (TextColumn("tagging"), BarColumn(24), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, said="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            now = bar.tasks[0]
            speed = f", {now.completed / now.elapsed:,.0f} a second" if now.elapsed else ""
            bar.update(task, said=f"{now.completed:,.0f} sentences{speed}")

        yield advance


def _write_json(file: IO[str], config: Config, line: Line, entities: list[dict[str, Any]], tags: list[str]) -> None:
    words = {"tokens": line.words, "tags": tags} if line.lines and tags else {}
    row = {"text": line.text, **words, "aggregation": config.aggregation, "entities": entities}
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_conll(file: IO[str], config: Config, line: Line, entities: list[dict[str, Any]], tags: list[str]) -> None:
    if line.lines:
        for raw, word in line.lines:
            raw = raw.rstrip()
            apart = "\t" if "\t" in raw or " " not in raw else " "
            file.write(f"{raw}\n" if word is None else f"{raw}{apart}{tags[word]}\n")
    elif tags:
        file.write("".join(f"{word}\t{one}\n" for word, one in zip(line.words, tags, strict=True)) + "\n")


def _write_text(file: IO[str], config: Config, line: Line, entities: list[dict[str, Any]], tags: list[str]) -> None:
    from rich.console import Console

    console = Console(file=file, soft_wrap=True, highlight=False)
    console.print(show(line.text, entities))
    for e in entities:
        console.print(f"  {e['start']:>4}-{e['end']:<4} {e['entity_group']:<14} {e['score']:.4f}  {e['word']}")
