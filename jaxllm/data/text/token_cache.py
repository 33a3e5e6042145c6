"""Caching the tokens of a text corpus on disk, in a file that every later run maps into memory.

A corpus is one long array of tokens. Each document begins with the tokenizer's begin token and ends with its end token.
Where both are the same token (GPT-2), it stands once before the first document and once after each. So every token of
the text is predicted from another token, and bits per byte are exact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.report import Report
from jaxllm.data.text.documents import Documents, Fragment
from jaxllm.data.tokenizers import cache_root, lock_folder, publish
from jaxllm.types import InputError

VERSION = 1
"""The version of the file format."""

BATCH = 2**22
"""The number of characters that are tokenised in one call."""


class Marks(NamedTuple):
    """The begin and end tokens of documents."""

    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        """The marks of a tokenizer; the end token serves as begin token where there is none.

        Raises InputError for a tokenizer without an end token.
        """
        end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
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
    with lock_folder(folder):
        if (corpus := _open(folder, documents, marks, vocab_size)) is not None:
            return corpus
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
        try:
            _write(partial, documents, encoder, marks, say)
            publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
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
    report = Report(max_bad_rows=documents.report.max_bad_rows, **meta.get("rows", {}))
    report.check_bad()
    return Corpus(documents.name, tokens, starts, ends, meta["bytes"], report)


def _write(folder: Path, documents: Documents, encoder: Any, marks: Marks, say: Callable[[str], None]) -> None:
    dtype = np.dtype(np.uint16 if max(encoder.get_vocab_size() - 1, *marks) < 2**16 else np.uint32)
    shared = marks.begin == marks.end
    ends: list[int] = []
    written, size, largest, told = 0, 0, max(marks), time.monotonic()
    begun = False  # whether a token of the document has been written
    with (folder / "tokens.bin").open("wb") as file:
        for batch in _batches(documents):
            encoded = encoder.encode_batch_fast([fragment.text for fragment in batch], add_special_tokens=False)
            for fragment, encoding in zip(batch, encoded, strict=True):
                ids = list(encoding.ids)
                size += len(fragment.text.encode())
                largest = max(largest, *ids, 0)
                if ids and not begun:
                    ids = ids if shared and written else [marks.begin, *ids]
                    begun = True
                if fragment.last and begun:
                    ids.append(marks.end)
                    ends.append(written + len(ids))
                    begun = False
                file.write(np.asarray(ids, dtype).tobytes())
                written += len(ids)
            if time.monotonic() > told + 10:
                say(f"tokenising {documents.name}: {written / 1e6:,.0f} million tokens of {len(ends):,} documents")
                told = time.monotonic()
    if not ends:
        raise InputError(f"{documents.name}: there is no text in it; check the data")
    np.save(folder / "ends.npy", np.array(ends, np.int64))
    report = documents.report
    rows = {"dropped": report.dropped, "bad": report.bad, "total": report.total}
    meta = {
        "rows": rows,
        "tokens": written,
        "documents": len(ends),
        "bytes": size,
        "largest": largest,
        "dtype": dtype.name,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _batches(documents: Documents) -> Iterator[list[Fragment]]:
    """Lists of fragments with about BATCH characters together."""
    batch: list[Fragment] = []
    held = 0
    for fragment in documents:
        batch.append(fragment)
        held += len(fragment.text)
        if held >= BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
