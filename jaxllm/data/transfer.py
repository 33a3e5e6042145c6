"""Asking a server for a file: what it states of it, and its bytes from any position on, with bounded retries.

HTTP is spoken by urllib: fsspec would take another package (aiohttp) for it, resumes nothing, and keeps checksums in
headers such as x-goog-hash to itself. All other protocols are fsspec's.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import errno
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from jaxllm.types import InputError

T = TypeVar("T")

ATTEMPTS, PAUSE = 5, 1.0
"""How often something that brings nothing is tried, and the seconds before the second time, doubled each time."""

TIMEOUT = 60.0
"""Seconds without a byte after which a connection is given up."""

BLOCK = 2**24
"""Bytes that are asked of fsspec at a time."""

# What tells two versions of a file apart, in the words of fsspec's file systems; the first that there is.
_VERSIONS = ("ETag", "etag", "generation", "blob_id", "LastModified", "last_modified", "mtime", "created")


class Unreachable(InputError):
    """A server that does not answer, or breaks off again and again."""


class Absent(InputError):
    """Nothing is there."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a server says of a file.

    size: in bytes, None for a folder, and over HTTP where it is not stated. checksum: "md5" or "sha256" and its
    hexadecimal digits; empty if there is none.
    """

    size: int | None
    version: str
    checksum: tuple[str, ...] = ()


def patiently(url: str, work: Callable[[], T], attempts: int = 0) -> T:
    """What `work` returns, tried again after growing pauses.

    attempts: by default ATTEMPTS. Raises InputError where the server refuses, Absent where nothing is there,
    Unreachable after the last attempt.
    """
    attempts = attempts or ATTEMPTS
    for attempt in range(attempts):
        try:
            return work()
        except (InputError, TypeError, AttributeError, NameError, AssertionError):  # the last four are bugs
            raise
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if is_final(error):
                if isinstance(error, FileNotFoundError) or getattr(error, "code", None) in (404, 410):
                    raise Absent(f"{url}: no such file or folder ({reason}); check the address") from error
                remedy = "check the address and who may read it"
                raise InputError(f"{url}: cannot be read ({reason}); {remedy}") from error
            if attempt + 1 == attempts:
                remedy = "check the connection and run the command again, which keeps what has come"
                raise Unreachable(f"{url}: cannot be read ({reason}); {remedy}") from error
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("there is at least one attempt")


def is_final(error: Exception) -> bool:
    """Whether the server has answered, and will not answer otherwise."""
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in (408, 425, 429)
    return isinstance(error, FileNotFoundError | PermissionError | ValueError | NotImplementedError | ImportError)


def is_http(url: str) -> bool:
    """Whether urllib reads it."""
    return url.startswith(("http://", "https://"))


def state(url: str, attempts: int = 0) -> Stated:
    """What the server says of a file or folder. Raises as `patiently` does."""
    return patiently(url, lambda: _state_http(url) if is_http(url) else _state(url), attempts)


def blocks(url: str, start: int, stated: Stated) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file with the byte that each begins at, from `start` on; from 0 where a server only sends all of it.

    The last may be missing where the connection breaks off. Raises InputError where the file is not the stated one any
    more, and whatever the connection does.
    """
    return _blocks_http(url, start, stated) if is_http(url) else _blocks(url, start, stated)


def file_system(url: str) -> Any:
    """fsspec's file system. Raises InputError for an unknown protocol, and for a package that is not installed."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.filesystem(protocol)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or protocol
        raise InputError(
            f"{url}: {protocol}:// takes a package that is not installed; pip install {package}"
        ) from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; give a file, a folder, or one at https, gs, s3 or hf://") from error


def _state(url: str) -> Stated:
    fs = file_system(url)
    fs.invalidate_cache()
    return stated_by_info(fs.info(url))


def stated_by_info(info: Mapping[str, Any]) -> Stated:
    """What fsspec says of a file or folder, alone or in a listing. Over HTTP a listing says next to nothing."""
    if info["type"] == "directory" or info["size"] is None:
        return Stated(None, "")
    found = next((info[name] for name in _VERSIONS if info.get(name)), "")
    version = str(found.timestamp() if isinstance(found, datetime.datetime) else found)
    sha256 = (info.get("lfs") or {}).get("sha256")  # of a large file on the hub
    return Stated(int(info["size"]), version, ("sha256", sha256) if sha256 else _md5(info.get("md5Hash")))


def _blocks(url: str, start: int, stated: Stated) -> Iterator[tuple[int, bytes]]:
    fs = file_system(url)
    while start < (stated.size or 0) and (block := fs.cat_file(url, start=start, end=start + BLOCK)):
        yield start, block
        start += len(block)
    _check_same(url, stated, _state(url))


def _request(url: str, method: str = "GET", **headers: str) -> Any:
    headers = {"User-Agent": "jaxllm", "Accept-Encoding": "identity", **headers}
    address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    return urllib.request.urlopen(urllib.request.Request(address, method=method, headers=headers), timeout=TIMEOUT)


def _state_http(url: str) -> Stated:
    try:
        with _request(url, "HEAD") as reply:
            found = _stated_by(reply)
    except urllib.error.HTTPError as error:
        if error.code not in (400, 403, 405, 501):  # of servers, and signed addresses, that are for GET alone
            raise
        found = Stated(None, "")
    if not found.size:
        with _request(url) as reply:
            found = _stated_by(reply)
    if found.size is None and not found.version:  # another one for each run
        return Stated(None, f"of process {os.getpid()} at {time.time()}", found.checksum)
    return found


def _stated_by(reply: Any) -> Stated:
    """What the headers of an answer say of the whole file."""
    headers, part = reply.headers, reply.status == 206
    length = headers.get("Content-Range", "").rpartition("/")[2] if part else headers.get("Content-Length", "")
    version = headers["ETag"] or headers["x-goog-generation"] or headers["Last-Modified"] or ""
    md5 = None if part else headers["Content-MD5"]
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        found = ",".join(headers.get_all("x-goog-hash", [])).split(",")
        md5 = next((x.strip().removeprefix("md5=") for x in found if x.strip().startswith("md5=")), md5)
    return Stated(int(length) if length.isdigit() else None, version, _md5(md5))


def _md5(text: str | None) -> tuple[str, ...]:
    return ("md5", base64.b64decode(text).hex()) if text else ()


def _blocks_http(url: str, start: int, stated: Stated) -> Iterator[tuple[int, bytes]]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and stated.version and not stated.version.startswith(("W/", "of process")):
        headers["If-Range"] = stated.version
    with _request(url, **headers) as reply:
        now = _stated_by(reply)
        _check_same(url, stated, now)
        if now.size is None and reply.headers["Transfer-Encoding"] != "chunked":
            raise InputError(
                f"{url}: its server states no length, so it cannot be known to be whole; download it first"
            )
        at = start if reply.status == 206 else 0
        if reply.status == 206 and not reply.headers["Content-Range"].startswith(f"bytes {start}-"):
            raise ConnectionError(f"{reply.headers['Content-Range']} came where byte {start} was asked for")
        while block := reply.read1(2**20):
            yield at, block
            at += len(block)


def _check_same(url: str, then: Stated, now: Stated) -> None:
    """Raises InputError where the file is another one than it was stated to be."""
    pairs = (("size", then.size, now.size), ("version", then.version, now.version))
    if found := [f"its {name} is {b} and was {a}" for name, a, b in pairs if a and b and a != b]:
        raise InputError(f"{url}: changed while it was read ({', '.join(found)}); run the command again")
