"""Data at https://, gs://, s3://, hf:// and all else that fsspec reaches, for every place where a data set is named.

A `RemotePath` stands for a `Path` there. Opening it downloads the file to the cache, and readers get the file in the
cache. A download goes on where it was broken off, in this run or in an earlier one, and is whole when it has the length
and the checksum that the server states. (fsspec's own file caches resume nothing and verify nothing.) A file that has
changed is downloaded anew. Where the server cannot be reached, a complete cache serves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import http.client
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from jaxllm.data import transfer
from jaxllm.data.tokenizers import cache_root, lock_folder
from jaxllm.data.transfer import Absent, Stated, Unreachable, is_http, stated_by_info
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath(os.PathLike[str]):
    """A file, folder or pattern on another machine, with as much of `Path` as reading data takes."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    def __fspath__(self) -> str:
        return str(_download(self))

    @property
    def name(self) -> str:
        """The last part of its path."""
        path = unquote(urlsplit(self.url).path) if is_http(self.url) else self.url
        return path.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """As of a `Path`."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(self.url.rstrip("/").rpartition("/")[0])

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for all that fit it."""
        return "*" in self.url if is_http(self.url) else glob.has_magic(self.url)

    @functools.cached_property
    def stated(self) -> Stated:
        """What the server says of it, or said where it cannot be reached now and the file is in the cache."""
        kept = _kept(self)
        try:
            return transfer.state(self.url, 1 if kept else 0)
        except Unreachable:
            if not kept:
                raise
            logging.getLogger(__name__).warning("%s: cannot be reached; the file in the cache is read", self.url)
            return kept

    def stamp(self) -> list[Any]:
        """What changes when the file does."""
        return [self.url, self.stated.size, self.stated.version]

    @functools.cached_property
    def _kind(self) -> str:
        if self.is_pattern:
            return "pattern"
        if is_http(self.url) and self.url.endswith("/"):
            return "folder"
        try:
            return "folder" if self.stated.size is None and not is_http(self.url) else "file"
        except Absent:
            return ""
        except Unreachable:
            if not (self / "*")._record.is_file():
                raise
            return "folder"

    def is_file(self) -> bool:
        """Raises InputError where the server does not tell."""
        return self._kind == "file"

    def is_dir(self) -> bool:
        """Over HTTP, which has no folders, whether it ends in a slash. Raises as `is_file`."""
        return self._kind == "folder"

    def glob(self, pattern: str) -> list[RemotePath]:
        """What fits in this folder, sorted, as the server lists it, or did where it cannot be reached now."""
        return (self / pattern).matches()

    def matches(self) -> list[RemotePath]:
        """What fits this pattern, as `glob`."""
        record, fs = self._record, transfer.file_system(self.url)
        try:
            listed = transfer.patiently(self.url, lambda: fs.glob(self.url, detail=True))
            found = {
                name: ("folder" if info["type"] == "directory" else "file", dataclasses.astuple(stated_by_info(info)))
                for name, info in listed.items()
            }
        except Absent:
            return []
        except Unreachable:
            if not record.is_file():
                raise
            found = json.loads(record.read_text())
        if found:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(found))
        protocol = self.url.partition("://")[0]
        urls = {(x if "://" in x else f"{protocol}://{x.lstrip('/')}"): known for x, known in found.items()}
        return [RemotePath(url)._known(*urls[url]) for url in sorted(urls)]

    @property
    def _record(self) -> Path:
        """Where what fits this pattern is noted."""
        return _folder(self) / "listing.json"

    def _known(self, kind: str, stated: tuple[int | None, str, tuple[str, ...]]) -> RemotePath:
        """This path with what a listing said of it, so that nobody asks for each of a thousand shards."""
        self.__dict__["_kind"] = kind
        size, version, checksum = stated
        if size is not None:
            self.__dict__["stated"] = Stated(size, version, tuple(checksum))
        return self


File = Path | RemotePath


def path_of(dataset: str | File) -> File:
    """The file, folder or pattern that a data set is, here or elsewhere."""
    if isinstance(dataset, RemotePath):
        return dataset
    text = str(dataset)
    if text.startswith("file://") or not is_url(text):
        return Path(text.removeprefix("file://")).expanduser()
    return RemotePath(text)


def is_url(text: str) -> bool:
    """Whether it names its protocol."""
    return re.match(r"[A-Za-z][\w.+-]*://", text) is not None


def _folder(path: RemotePath) -> Path:
    return cache_root() / "downloads" / hashlib.sha256(path.url.encode()).hexdigest()[:20]


def _whole(path: RemotePath) -> Path:
    """The file in the cache, whose name has the suffix that tells its format."""
    return _folder(path) / f"whole-{path.name[-100:]}"


def _kept(path: RemotePath, partial: Path | None = None) -> Stated | None:
    """What was stated of the file in the cache, or of this part of it; None where it is not there."""
    try:
        there = (partial or _whole(path)).stat().st_size
        size, version, checksum = json.loads((_folder(path) / "stated.json").read_text())
    except (OSError, ValueError):
        return None
    if not partial and size not in (None, there):
        return None
    return Stated(size, version, tuple(checksum))


def _download(path: RemotePath) -> Path:
    """The file in the cache, complete and as the server has it. Raises InputError."""
    stated, folder, whole = path.stated, _folder(path), _whole(path)
    with lock_folder(folder) as locked:
        if _kept(path) == stated:
            return whole
        folder.mkdir(exist_ok=True)
        # One to go on with, if no process of another host can be at it.
        partial = folder / ("partial" if locked else f"partial-{socket.gethostname()}-{os.getpid()}")
        if stated.size is None or not stated.version or _kept(path, partial) != stated:
            whole.unlink(missing_ok=True)
            partial.write_bytes(b"")
            (folder / "stated.json").write_text(json.dumps(dataclasses.astuple(stated)))
        with _bar(path, stated) as bar:
            furthest = 0
            while not transfer.patiently(path.url, functools.partial(_append, path, partial, bar, furthest)):
                furthest = max(furthest, partial.stat().st_size)
        _check(path, partial)
        partial.replace(whole)
    return whole


def _append(path: RemotePath, partial: Path, bar: Any, furthest: int) -> bool:
    """Downloads what a file lacks. Whether it is whole then, or the connection broke off beyond `furthest`."""
    stated = path.stated
    with partial.open("r+b") as file:
        began = file.seek(0, os.SEEK_END)
        try:
            for start, block in transfer.blocks(path.url, began, stated) if began != stated.size else ():
                if start != file.tell():  # a server that sends all of it
                    file.truncate(file.seek(start))
                file.write(block)
                bar.n = start
                bar.update(len(block))
            if file.tell() < (stated.size or 0):
                raise ConnectionError(f"{file.tell():,} bytes came where the server states {stated.size:,}")
        except (OSError, http.client.HTTPException) as error:
            if file.tell() <= max(began, furthest) or transfer.is_final(error):
                raise
            return False
        file.flush()
        os.fsync(file.fileno())
    return True


def _check(path: RemotePath, partial: Path) -> None:
    """Raises InputError, and deletes the file, where its length or checksum is not the stated one."""
    stated, size, fault = path.stated, partial.stat().st_size, ""
    if size != (size if stated.size is None else stated.size):
        fault = f"{size:,} bytes came where the server states {stated.size:,}"
    elif stated.checksum:
        kind, wanted = stated.checksum
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        fault = "" if found == wanted else f"its {kind} is {found} where the server states {wanted}"
    if fault:
        partial.unlink()
        raise InputError(f"{path}: {fault}; run the command again, or download it and give the file")


@contextlib.contextmanager
def _bar(path: RemotePath, stated: Stated) -> Iterator[Any]:
    """A bar on stderr, as downloads from the hub have it; where nobody watches, a line every 30 s after 10 s."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    with tqdm(desc=path.name, total=stated.size, unit="B", unit_scale=True, leave=False,
              mininterval=0.1 if live else 30, delay=0 if live else 10) as bar:  # fmt: skip
        yield bar
