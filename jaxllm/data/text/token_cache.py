"""Caching the tokens of a text corpus on disk, in a file that every later run maps into memory.

A corpus is one long array of tokens. Each document begins with the tokenizer's begin token and ends with its end token.
Where both are the same token (GPT-2), it stands once before the first document and once after each. So every token of
the text is predicted from another token, and bits per byte are exact.

Memory does not grow with the corpus: texts are read a batch at a time, by a thread of its own while the batch before is
tokenised. A pass that is interrupted goes on where it last saved: it reads the texts again and tokenises those that are
left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxllm.data.report import Report
from jaxllm.data.text.documents import Documents, Fragment
from jaxllm.data.tokenizers import cache_root, lock_folder, publish
from jaxllm.types import InputError

VERSION = 1
"""The version of the file format."""

BATCH = 2**21
"""The number of characters that are tokenised in one call."""

SAVE_EVERY = 30.0
"""Seconds between two notes of how far a pass has come; an interruption costs so much at most."""


class Marks(NamedTuple):
    """The begin and end tokens of documents."""

    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        """The marks of a tokenizer; the end token serves as begin token where there is none.

        A tokenizer with a class and a separator token alone, as BERT's, has these as marks.

        Raises InputError for a tokenizer without an end token.
        """
        end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
        if end is None and tokenizer.cls_token_id is not None:
            end, begin = tokenizer.sep_token_id, tokenizer.cls_token_id
        if end is None:
            raise InputError("the tokenizer has no end-of-text token (eos_token); name another by --tokenizer")
        return cls(end if begin is None else begin, end)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The tokens of one split of one data set."""

    name: str
    tokens: np.ndarray
    """All tokens, mapped from disk: uint16 where the vocabulary fits, else uint32."""
    starts: np.ndarray
    """The position of each document's begin token, int64."""
    ends: np.ndarray
    """The position after each document's end token, int64."""
    size: int
    """The size of the texts in UTF-8, in bytes."""
    report: Report = dataclasses.field(default_factory=Report)
    """The rows that were left out."""

    def describe(self) -> str:
        """The size of the corpus in one line, for the terminal."""
        return f"{self.name}: {len(self.tokens):,} tokens, {len(self.ends):,} documents, {self.size:,} bytes"


def open_corpus(
    documents: Documents,
    tokenizer: Any,
    vocab_size: int,
    *,
    root: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """The tokens of these documents, read from the cache, or tokenised and written to it.

    root: the folder of the cache, by default `cache_root()`. The name of a corpus in it depends on the data and the
    tokenizer alone, and appears when the corpus is complete. say: is called with a line of progress every 10 s. Raises
    InputError where there is no text, and for a token that is not below `vocab_size`.
    """
    marks = Marks.of(tokenizer)
    encoder = plain_encoder(tokenizer)
    key = hashlib.sha256(json.dumps([VERSION, documents.key, encoder.to_str(), marks]).encode()).hexdigest()[:20]
    folder = (cache_root() if root is None else root) / "tokens" / key
    with lock_folder(folder) as locked:
        if (corpus := _open(folder, documents, marks, vocab_size)) is not None:
            return corpus
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there
        # One to go on with, if no other process can be at it: hosts that share the cache may not share locks.
        partial = folder.with_name(f"partial-{key}-{socket.gethostname()}")
        if not locked:
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
        partial.mkdir(exist_ok=True)
        try:
            _write(partial, documents, encoder, marks, say)
            publish(partial, folder)
        except BaseException as error:
            if isinstance(error, InputError) or not locked or not (partial / "progress.json").exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise
    corpus = _open(folder, documents, marks, vocab_size)
    assert corpus is not None
    return corpus


def plain_encoder(tokenizer: Any) -> Any:
    """The fast tokenizer without truncation and padding, which reads special tokens in a text as plain text."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = True
    return encoder


def _open(folder: Path, documents: Documents, marks: Marks, vocab_size: int) -> Corpus | None:
    """The corpus in a folder; None where it is absent or incomplete. Raises InputError for too many bad rows."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        tokens = np.memmap(folder / "tokens.bin", meta["dtype"], mode="r")
        ends = np.load(folder / "ends.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        return None
    if len(tokens) != meta["tokens"] or len(ends) != meta["documents"]:
        return None
    shared = marks.begin == marks.end
    starts = np.concatenate([[int(shared)], ends[:-1]]) - int(shared)
    if meta["largest"] >= vocab_size:
        raise InputError(
            f"{documents.name}: token id {meta['largest']} is beyond the model's vocabulary of {vocab_size}; "
            "use the model's own tokenizer"
        )
    rows = meta.get("rows", {})
    if "unread" not in rows:  # a cache of before columns were noted: those of the first document
        next(iter(documents), None)
        rows["unread"] = documents.report.unread
    report = Report(max_bad_rows=documents.report.max_bad_rows, **rows)
    report.check_bad()
    return Corpus(documents.name, tokens, starts, ends, meta["bytes"], report)


@dataclasses.dataclass
class _Progress:
    """How much of a corpus is written."""

    fragments: int = 0
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    """Size of the texts in UTF-8."""
    largest: int = 0
    begun: bool = False
    """Whether a token of a document has been written, and not yet its end."""


def _write(folder: Path, documents: Documents, encoder: Any, marks: Marks, say: Callable[[str], None]) -> None:
    dtype = np.dtype(np.uint16 if max(encoder.get_vocab_size() - 1, *marks) < 2**16 else np.uint32)
    with (folder / "tokens.bin").open("ab") as tokens, (folder / "ends.bin").open("ab") as ends:
        done = _resume(folder, (tokens, dtype.itemsize), (ends, 8))
        if done.fragments:
            say(f"{documents.name}: {done.tokens:,} tokens are there from an interrupted run, which goes on")
        told = saved = time.monotonic()
        for batch in _read_ahead(_batches(documents, done.fragments)):
            encoded = encoder.encode_batch_fast([fragment.text for fragment in batch], add_special_tokens=False)
            ids, stops = _lay_out(batch, encoded, marks, done)
            tokens.write(np.array(ids, dtype).tobytes())
            ends.write(np.array(stops, np.int64).tobytes())
            now = time.monotonic()
            if now > told + 10:
                so_far = f"{done.tokens / 1e6:,.0f} million tokens of {done.documents:,} documents"
                say(f"tokenising {documents.name}: {so_far}")
                told = now
            if now > saved + SAVE_EVERY:
                _save(folder, done, tokens, ends)
                saved = now
    if not done.documents:
        raise InputError(f"{documents.name}: there is no text in it; check the data")
    np.save(folder / "ends.npy", np.fromfile(folder / "ends.bin", np.int64))
    report = documents.report
    rows = {"dropped": report.dropped, "bad": report.bad, "total": report.total, "unread": report.unread}
    meta = {
        "rows": rows,
        "tokens": done.tokens,
        "documents": done.documents,
        "bytes": done.bytes,
        "largest": max(done.largest, *marks),
        "dtype": dtype.name,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    for name in ("ends.bin", "progress.json"):
        (folder / name).unlink(missing_ok=True)


def _lay_out(batch: list[Fragment], encoded: list[Any], marks: Marks, done: _Progress) -> tuple[list[int], list[int]]:
    """The tokens of a batch with the marks of its documents, and where the documents end; both are added to `done`."""
    tokens: list[int] = []
    ends: list[int] = []
    start, shared = done.tokens, marks.begin == marks.end
    for fragment, encoding in zip(batch, encoded, strict=True):
        ids = encoding.ids
        if ids and not done.begun:
            if not (shared and start + len(tokens)):
                tokens.append(marks.begin)
            done.begun = True
        tokens += ids
        if fragment.last and done.begun:
            tokens.append(marks.end)
            ends.append(start + len(tokens))
            done.begun = False
        done.bytes += len(fragment.text.encode())
    done.fragments += len(batch)
    done.tokens += len(tokens)
    done.documents += len(ends)
    done.largest = max(done.largest, max(tokens, default=0))
    return tokens, ends


def _save(folder: Path, done: _Progress, *files: IO[bytes]) -> None:
    """Notes how far the files of a corpus are written, once they are on the disk."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    (folder / "progress.new").write_text(json.dumps(dataclasses.asdict(done)))
    (folder / "progress.new").replace(folder / "progress.json")


def _resume(folder: Path, tokens: tuple[IO[bytes], int], ends: tuple[IO[bytes], int]) -> _Progress:
    """What `_save` noted last, and the files, each with the bytes of an entry, cut to that; else all from the start."""
    try:
        done = _Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError):
        done = _Progress()
    sizes = [(file, count * size) for (file, size), count in ((tokens, done.tokens), (ends, done.documents))]
    if any(os.fstat(file.fileno()).st_size < size for file, size in sizes):  # lost with the machine's power
        done, sizes = _Progress(), [(file, 0) for file, _ in sizes]
    for file, size in sizes:
        file.truncate(size)
    return done


def _batches(documents: Documents, skip: int) -> Iterator[list[Fragment]]:
    """Lists of fragments with about BATCH characters together, without the first `skip` fragments."""
    batch: list[Fragment] = []
    held = 0
    for fragment in itertools.islice(documents, skip, None):
        batch.append(fragment)
        held += len(fragment.text)
        if held >= BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _read_ahead(batches: Iterator[list[Fragment]]) -> Iterator[list[Fragment]]:
    """The batches, each read while the one before it is in use. What reading raises is raised here."""
    read: queue.Queue[list[Fragment] | BaseException | None] = queue.Queue(1)

    def fill() -> None:
        try:
            for batch in batches:
                read.put(batch)
            read.put(None)
        except BaseException as error:
            read.put(error)

    threading.Thread(target=fill, daemon=True).start()  # one that waits for a server does not hold the process up
    while (found := read.get()) is not None:
        if isinstance(found, BaseException):
            raise found
        yield found
