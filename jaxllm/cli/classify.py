"""`python -m jaxllm classify`: the labels or numbers of texts, files or standard input, by a trained classifier."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import tyro

from jaxllm.data import files
from jaxllm.data.labelled.columns import find_columns
from jaxllm.data.labelled.rows import Reader, Text
from jaxllm.data.remote import path_of
from jaxllm.data.report import BadRow, check_argument
from jaxllm.data.sources import Row
from jaxllm.types import InputError

CHUNK = 4096
"""Texts that are read, packed and classified at a time."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Classifies texts and prints a JSON line for each: label and score of every label, or a number."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a classifier of texts."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The text, or the two texts of a pair; without any, and without --input, standard input is read."""
    input: str = ""
    """File of texts: .jsonl, .json, .csv, .tsv or .parquet with the columns that training reads, or .txt with a text on
    each line; - for standard input, lines of text or of JSON objects."""
    columns: str = ""
    """Names for columns that are not recognised, as in text=body,pair=answer; by default none."""
    max_length: int = 512
    """Length of the longest text or pair, in tokens; longer ones are cut."""
    batch_size: int = 64
    """Texts computed at a time."""


def main(config: Config) -> None:
    """Loads the model, classifies, prints."""
    if len(config.text) > 2:
        raise InputError(f"{len(config.text)} texts: give one, or the two of a pair; --input reads many")
    if config.text and config.input:
        raise InputError("texts are given, and --input too; give one of them")
    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: at least 1 is needed")
    for given in config.text:
        check_argument(given, "the text")
    texts = _read(config)
    first = next(texts, None)
    if first is None:
        raise InputError("no text to classify: give one after the model, or --input, or standard input")
    find = _finder(config, first)
    texts = itertools.chain([first], texts)
    while chunk := list(itertools.islice(texts, CHUNK)):
        for text, found in zip(chunk, find(chunk), strict=True):
            pair = {} if text.pair is None else {"pair": text.pair}
            print(json.dumps({"text": text.text, **pair, **found}, ensure_ascii=False), flush=True)


def _finder(config: Config, first: Text) -> Callable[[Sequence[Text]], list[dict[str, Any]]]:
    from jaxllm.data.labelled.examples import encode
    from jaxllm.distributed import mesh as meshes
    from jaxllm.evals.classify import answer, classify, scores_of
    from jaxllm.models.heads import ScorerConfig, trunk_of
    from jaxllm.recipes.labelled import check_pairs
    from jaxllm.recipes.weights import load_params, open_weights
    from jaxllm.train.forward import Runner

    opened = open_weights(config.model, "classifier")
    check_pairs(opened.config.pairs, first)
    tokenizer, whole, mesh = opened.load_tokenizer(), opened.config, meshes.make_mesh()
    runner = Runner(opened.spec.graphdef, load_params(opened.spec, mesh), mesh)
    trunk = trunk_of(whole)

    def find(texts: Sequence[Text]) -> list[dict[str, Any]]:
        limit, types = min(config.max_length, trunk.max_positions), getattr(trunk, "token_types", 0)
        examples = encode(texts, tokenizer, limit, last=isinstance(whole, ScorerConfig), types=types)
        scores = scores_of(classify(runner, examples, config.batch_size), whole.problem)
        return [answer(one, whole.labels, whole.problem) for one in scores]

    return find


def _read(config: Config) -> Iterator[Text]:
    """The texts to classify. Raises InputError that names file and line."""
    if config.text:
        yield Text(config.text[0], config.text[1] if len(config.text) > 1 else None, None, "the text")
        return
    if config.input in ("", "-"):
        if not config.input and sys.stdin.isatty():
            return
        yield from _of_lines(sys.stdin.buffer, "standard input", config.columns)
        return
    path = path_of(config.input)
    if not path.is_file():
        raise InputError(f"--input {config.input}: no such file; check the path")
    if files.suffix_of(path) == ".txt":
        with files.open_bytes(path) as file:
            yield from _of_lines(file, config.input, config.columns)
        return
    part = files.read(path)
    yield from _of_rows(((part.where(i, None), row) for i, row in enumerate(part.rows)), config.columns)


def _of_lines(file: Iterable[bytes], name: str, columns: str) -> Iterator[Text]:
    """Texts of lines; of lines of JSON where the first is an object."""
    lines = _numbered(file, name)
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first], lines)
    if first[1].lstrip().startswith("{"):
        yield from _of_rows(((where, _object(line, where)) for where, line in lines), columns)
    else:
        yield from (Text(line, None, None, where) for where, line in lines)


def _numbered(file: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file, start=1):
        where = f"{name}, line {number}"
        try:
            text = line.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"{where}: not UTF-8; convert the file to UTF-8") from None
        if text.strip():
            yield where, text


def _object(line: str, where: str) -> Row:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); mend the line") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {type(found).__name__} where an object {{...}} is needed; mend the line")
    return found


def _of_rows(rows: Iterable[tuple[str, Row]], columns: str) -> Iterator[Text]:
    reader: Reader | None = None
    for where, row in rows:
        if reader is None:
            reader = Reader(dataclasses.replace(find_columns(row, where, columns, labelled=False), labels=()), "single")
        try:
            yield reader.text(row, where)
        except BadRow as error:
            raise InputError(str(error)) from None
