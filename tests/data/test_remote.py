"""Data sets on other machines: in memory, and on a server that breaks off, lies, refuses, stalls and changes."""

import base64
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_files import serving

from jaxllm.data import sources, tokenizers, transfer
from jaxllm.data.remote import RemotePath, path_of
from jaxllm.data.tagging.load import load_tagged
from jaxllm.data.text import documents
from jaxllm.data.text.documents import open_documents, parse_weight
from jaxllm.data.text.token_cache import open_corpus
from jaxllm.types import InputError

ROWS = [{"text": f"document {i}, é"} for i in range(400)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, no pauses, and no proxy between here and here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    return tmp_path / "cache" / "jaxllm" / "downloads"


@pytest.fixture
def server():
    with serving() as server:
        server.files["/data/train.jsonl"] = LINES
        yield server


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def texts(url):
    return [row["text"] for row in sources.load(url)["train"]]


def fault(url, *words):
    with pytest.raises(InputError) as caught:
        sources.load(url)
    message = str(caught.value)
    assert "\n" not in message
    assert str(url) in message
    for word in words:
        assert word in message
    return message


WANTED = [row["text"] for row in ROWS]


def packed(data, kind):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def table(kind):
    sink, found = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(found, sink)
    else:
        with pa.ipc.new_file(sink, found.schema) as file:
            file.write_table(found)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "a.jsonl": LINES,
    "a.jsonl.gz": packed(LINES, "gzip"),
    "a.jsonl.zst": packed(LINES, "zstd"),
    "a.jsonl.bz2": packed(LINES, "bz2"),
    "a.json": json.dumps(ROWS).encode(),
    "a.parquet": table("parquet"),
    "a.arrow": table("arrow"),
    "a.csv": b"text\n" + "".join(f'"{text}"\n' for text in WANTED).encode(),
    "a.tsv": b"text\n" + "".join(f"{text}\n" for text in WANTED).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_elsewhere(name, memory, server):
    memory.pipe(f"/data/{name}", FORMATS[name])
    server.files[f"/{name}"] = FORMATS[name]
    for url in (f"memory://data/{name}", f"{server.url}/{name}?download=true"):
        assert texts(url) == WANTED
        assert list(open_documents(url)["train"].texts()) == WANTED
        assert sources.load(url)["train"].where(1).startswith(f"{url}, ")


def test_a_text_and_columns_from_elsewhere(memory):
    memory.pipe("/a.txt", "one\ntwo é\n".encode() * 50)
    found = open_documents("memory://a.txt", holdout=0.1)
    assert "".join([*found["train"].texts(), *found["dev"].texts()]) == "one\ntwo é\n" * 50
    memory.pipe("/ner/train.txt", b"Ada B-per\nmet O\n\nAlan B-per\n")
    memory.pipe("/ner/dev.txt", b"Grace B-per\n")
    found = load_tagged("memory://ner")
    assert [row["tokens"] for row in found["train"]] == [["Ada", "met"], ["Alan"]]
    assert [row["tokens"] for row in found["dev"]] == [["Grace"]]
    assert found["train"].where(0, 1) == "memory://ner/train.txt, line 2"
    memory.pipe("/bad.jsonl", b'{"text": "a"}\n{')
    with pytest.raises(InputError, match=r"memory://bad.jsonl, line 2: not JSON"):
        list(open_documents("memory://bad.jsonl")["train"])


def test_patterns_and_folders_from_elsewhere(memory):
    for name in ("train-0", "train-1", "validation-0", "notes"):
        memory.pipe(f"/data/{name}.jsonl", json.dumps({"text": name}).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_state", None)  # each is not asked for
        keys = [documents.key for documents in open_documents("memory://data/train-*.jsonl").values()]
    assert texts("memory://data/train-*.jsonl") == ["train-0", "train-1"]
    assert keys == [documents.key for documents in open_documents("memory://data/train-*.jsonl").values()]
    one = open_documents("memory://data/train-0.jsonl")["train"].key
    assert open_documents("memory://data/train-0*.jsonl")["train"].key == one
    memory.pipe("/data/readme.md", b"x")
    found = sources.load("memory://data")
    assert {split: [row["text"] for row in rows] for split, rows in found.items()} == {
        "train": ["train-0", "train-1"], "dev": ["validation-0"],
    }  # fmt: skip
    assert found["train"].where(1) == "memory://data/train-1.jsonl, line 1"
    memory.pipe("/deep/test/a.jsonl", b'{"text": "t"}')
    memory.pipe("/deep/train/b.jsonl", b'{"text": "b"}')
    assert {split: len(rows) for split, rows in sources.load("memory://deep").items()} == {"train": 1, "test": 1}
    with pytest.raises(InputError, match="no such file"):
        sources.load("memory://data/test-*.jsonl")
    with pytest.raises(InputError, match="no such file"):
        sources.load("memory://nowhere")
    memory.pipe("/odd/x.md", b"x")
    fault("memory://odd", "no train, dev or test file (x.md)")


def test_a_saved_set_from_elsewhere(memory):
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk("memory://saved")
    assert texts("memory://saved") == WANTED


def test_a_file_of_this_machine_by_url(tmp_path, cache):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert texts(f"file://{tmp_path}/a.jsonl") == WANTED
    assert not cache.exists()


def test_a_dropped_connection_is_taken_up_where_it_broke_off(server, cache):
    server.cut_after = [1000, 500, 0, 2000]
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    assert server.got() == ["", "bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=3500-"]
    assert not list(cache.rglob("partial*"))
    server.asked.clear()
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    assert server.got() == [], "it is in the cache"


def test_one_that_always_breaks_off_is_given_up_and_kept(server, cache):
    server.cut_after = [700] + [0] * 10
    fault(f"{server.url}/data/train.jsonl", "700 bytes came", f"states {len(LINES):,}", "run the command again")
    assert len(server.got()) == 1 + transfer.ATTEMPTS
    server.cut_after, server.asked = [], []
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    assert server.got() == ["bytes=700-"]


def test_without_ranges_it_begins_again(server):
    server.ranges, server.cut_after = False, [1000, 1500]
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    server.files["/b.jsonl"], server.cut_after, server.asked = LINES, [1000] * 20, []
    fault(f"{server.url}/b.jsonl", "1,000 bytes came")
    assert len(server.got()) == 1 + transfer.ATTEMPTS


@pytest.mark.parametrize("more", [100, -100])
def test_a_length_that_is_not_true_is_not_believed(server, more, monkeypatch, cache):
    """One too large ends in a refusal. One too small on HEAD alone is seen by GET."""
    url = f"{server.url}/data/train.jsonl"
    if more > 0:
        server.stated = len(LINES) + more
        fault(url, "416")
    else:
        stated = transfer.Stated(len(LINES) + more, "")
        monkeypatch.setattr(transfer, "_state_http", lambda url: stated)
        fault(url, f"its size is {len(LINES)} and was {len(LINES) + more}")
    assert not list(cache.rglob("whole-*"))


def test_without_a_length_the_end_must_be_marked(server, cache):
    url, server.length, server.ranges = f"{server.url}/data/train.jsonl", "nothing", False
    fault(url, "states no length")
    server.length, server.cut_after = "chunks", [1000, 2000]
    assert texts(url) == WANTED
    server.cut_after, server.files["/data/train.jsonl"] = [len(LINES)] * 10, LINES + b"\n"
    fault(url, "IncompleteRead")
    assert not list(cache.rglob("whole-*"))


@pytest.mark.parametrize(("status", "words", "asked"), [
    (404, "no such file or folder", 1), (403, "403", 2), (401, "401", 1), (500, "500", 5), (503, "503", 5),
])  # fmt: skip
def test_a_refusal_is_one_line(server, status, words, asked):
    server.status = status
    fault(f"{server.url}/data/train.jsonl", words)
    assert len(server.asked) == asked, "only what may pass is tried again"


def test_a_server_for_get_alone(server):
    server.heads = False
    assert texts(f"{server.url}/data/train.jsonl") == WANTED


def test_a_stalled_connection_is_given_up_and_continued(server, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    server.stall = 5000
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    assert server.got() == ["", *(f"bytes={at}-" for at in range(5000, len(LINES), 5000))]


def test_a_changed_file_is_downloaded_anew(server, memory):
    for url, put in ((f"{server.url}/data/train.jsonl", lambda x: server.files.update({"/data/train.jsonl": x})),
                     ("memory://a.jsonl", lambda x: memory.pipe("/a.jsonl", x))):  # fmt: skip
        put(LINES)
        before = open_documents(url)["train"]
        assert texts(url) == WANTED
        assert open_documents(url)["train"].key == before.key
        put(LINES.replace(b"document", b"Document"))  # as long as before
        assert texts(url) == [text.replace("d", "D", 1) for text in WANTED]
        assert open_documents(url)["train"].key != before.key
        with pytest.raises(InputError, match="changed while it was read"):
            list(before)


def test_a_part_of_an_older_version_is_not_continued(server):
    url = f"{server.url}/data/train.jsonl"
    server.cut_after = [700] + [0] * 10
    fault(url)
    server.files["/data/train.jsonl"] = LINES.replace(b"document", b"Document")
    server.cut_after, server.asked = [], []
    assert texts(url)[0] == "Document 0, é"
    assert server.got() == [""]


@pytest.mark.parametrize("header", ["Content-MD5", "x-goog-hash"])
def test_a_checksum_is_verified(server, header, cache):
    url = f"{server.url}/data/train.jsonl"
    wrong, right = (base64.b64encode(hashlib.md5(x).digest()).decode() for x in (b"other", LINES))
    before = "crc32c=AAAAAA==,md5=" if header == "x-goog-hash" else ""
    server.headers = {header: before + wrong}
    fault(url, f"its md5 is {hashlib.md5(LINES).hexdigest()}")
    assert not list(cache.rglob("whole-*"))
    server.headers = {header: before + right}
    assert texts(url) == WANTED


def test_offline_the_cache_serves(server, memory, monkeypatch, caplog):
    for i in range(2):
        memory.pipe(f"/data/train-{i}.jsonl", LINES)
    memory.pipe("/data/readme.md", b"x")
    urls = (f"{server.url}/data/train.jsonl", "memory://data/train-*.jsonl", "memory://data")
    keys = [open_documents(url)["train"].key for url in urls]
    assert [len(texts(url)) for url in urls] == [400, 800, 800]
    server.shutdown()
    server.server_close()
    for name in ("info", "glob", "cat_file"):
        monkeypatch.setattr(type(memory), name, offline)
    assert [len(texts(url)) for url in urls] == [400, 800, 800]
    assert [open_documents(url)["train"].key for url in urls] == keys, "its tokens are still those"
    assert "the file in the cache is read" in caplog.text
    fault(f"{server.url}/data/other.jsonl", "cannot be read", "check the connection")


def offline(*_, **__):
    raise ConnectionError("no network")


KILLED = """
import sys
from jaxllm.data import sources
sources.load(sys.argv[1])
"""


def test_a_killed_download_goes_on_where_it_was(server, cache):
    server.stall = 6000
    child = subprocess.Popen([sys.executable, "-c", KILLED, f"{server.url}/data/train.jsonl"], env=dict(os.environ))
    while not any(path.stat().st_size == 6000 for path in cache.rglob("partial")):
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    server.stall, server.asked = None, []
    assert texts(f"{server.url}/data/train.jsonl") == WANTED
    assert server.got() == ["bytes=6000-"]


def test_shards_that_are_there_are_not_fetched_again(server, tmp_path):
    """Caching tokens breaks off in the second of three shards; the next start fetches the rest of it and the third."""
    names = [f"/train-{i}.jsonl" for i in range(3)]
    server.files |= dict.fromkeys(names, LINES)
    server.cut_after = [len(LINES), 900] + [0] * 10
    tokenizer = tokenizers.characters(WANTED)

    def read():
        return documents._of_files([RemotePath(f"{server.url}{name}") for name in names], 0.05)

    with pytest.raises(InputError, match=r"train-1.jsonl: cannot be read \(900 bytes came"):
        open_corpus(read(), tokenizer, len(tokenizer), root=tmp_path)
    server.cut_after, server.asked = [], []
    corpus = open_corpus(read(), tokenizer, len(tokenizer), root=tmp_path)
    assert len(corpus.ends) == 1200
    assert [(path, asked) for method, path, asked in server.asked if method == "GET"] == [
        ("/train-1.jsonl", "bytes=900-"), ("/train-2.jsonl", ""),
    ]  # fmt: skip


def test_what_cannot_be_reached_is_named_with_the_remedy(monkeypatch):
    fault("zzz://a/b.jsonl", "zzz", "hf://")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    fault("gs://bucket/a.jsonl", "pip install gcsfs")
    fault("s3://bucket/*.jsonl", "pip install s3fs")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "http", raising=False)
    fault("http://127.0.0.1:9/*.jsonl", "pip install aiohttp")


def test_names():
    path = path_of("https://host/a/b%20c.jsonl.gz?token=1/2")
    assert (path.name, path.suffix, str(path)) == ("b c.jsonl.gz", ".gz", "https://host/a/b%20c.jsonl.gz?token=1/2")
    assert path_of("~/x") == Path("~/x").expanduser()
    assert parse_weight("https://host:8000/a.txt:0.5") == ("https://host:8000/a.txt", 0.5)
    assert parse_weight("https://host:8000") == ("https://host:8000", 1.0)
