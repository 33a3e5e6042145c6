import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_rows import write_jsonl

from jaxllm.data.text import documents
from jaxllm.data.text.documents import Fragment, open_documents, parse_weight, split_document
from jaxllm.data.text.token_cache import open_corpus
from jaxllm.types import InputError

TEXTS = ["first é", "second\nline", "third"]


def write(folder, kind, texts=TEXTS, name="train"):
    path = folder / f"{name}.{kind}"
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    return path


def whole(fragments):
    """Documents of fragments."""
    found, parts = [], []
    for text, last in fragments:
        parts.append(text)
        if last:
            found.append("".join(parts))
            parts = []
    assert not parts
    return found


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_its_texts(kind, tmp_path):
    found = open_documents(str(write(tmp_path, kind)))
    assert found.keys() == {"train"}
    assert whole(found["train"]) == TEXTS
    assert whole(found["train"]) == TEXTS  # a second time


def test_a_text_file_is_one_document_and_its_line_ends_stay(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n two é\n".encode())
    assert list(open_documents(str(path))["train"]) == [Fragment("one\r\n\n two é\n", True)]
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"text": "one"}\r\n\n{"text": "two"}'.encode())
    assert list(open_documents(str(path))["train"].texts()) == ["one", "two"]


def test_a_folder_has_splits_and_shards_or_is_all_train(tmp_path):
    for name, texts in (("train-0", ["a"]), ("train-1", ["b"]), ("validation", ["c"])):
        write(tmp_path, "jsonl", texts, name)
    found = open_documents(str(tmp_path), holdout=0.5)
    assert whole(found["train"]) == ["a", "b"]
    assert whole(found["dev"]) == ["c"]
    other = tmp_path / "other"
    other.mkdir()
    for name in ("x", "y"):
        (other / f"{name}.txt").write_text(name)
    assert whole(open_documents(str(other))["train"]) == ["x", "y"]
    (other / "test").mkdir()
    (other / "test" / "z.txt").write_text("z")
    assert whole(open_documents(str(other))["train"]) == ["x", "y"]
    (other / "train").mkdir()
    (other / "train" / "w.txt").write_text("w")
    found = open_documents(str(other))
    assert (whole(found["train"]), whole(found["test"])) == (["w"], ["z"])


def test_long_documents_come_in_fragments_cut_at_line_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(documents, "FRAGMENT", 64)
    text = "\n".join(f"word{i} é" for i in range(100)) + "\n"
    parts = list(split_document(text))
    assert "".join(part.text for part in parts) == text
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(part.text.endswith("\n") for part in parts)
    assert max(len(part.text) for part in parts) <= 64
    path = tmp_path / "a.txt"
    path.write_text(text)  # a block is four fragments, and é straddles some of their borders
    assert whole(open_documents(str(path))["train"]) == [text]
    assert whole(split_document("x" * 1000)) == ["x" * 1000]


def test_holdout_of_a_lone_text_is_its_end(tmp_path):
    path = tmp_path / "a.txt"
    text = "".join(f"line {i}\n" for i in range(100))
    path.write_text(text)
    found = open_documents(str(path), holdout=0.1)
    (train,), (dev,) = whole(found["train"]), whole(found["dev"])
    assert train + dev == text
    assert train.endswith("\n")
    assert 0.05 < len(dev) / len(text) < 0.1
    assert found["train"].key != found["dev"].key != open_documents(str(path))["train"].key


def test_holdout_of_many_is_every_so_manieth(tmp_path):
    texts = [f"text {i}" for i in range(25)]
    found = open_documents(str(write(tmp_path, "jsonl", texts)), holdout=0.1)
    assert whole(found["dev"]) == ["text 9", "text 19"]
    assert whole(found["train"]) == [text for text in texts if text not in ("text 9", "text 19")]
    assert open_documents(str(write(tmp_path, "jsonl", texts[:5])), holdout=0.1).keys() == {"train"}


def test_the_key_changes_with_the_file(tmp_path):
    path = write(tmp_path, "jsonl")
    before = open_documents(str(path))["train"].key
    assert before == open_documents(str(path))["train"].key
    write(tmp_path, "jsonl", [*TEXTS, "more"])
    assert before != open_documents(str(path))["train"].key


def test_weights(tmp_path):
    assert parse_weight("a.txt:0.7") == ("a.txt", 0.7)
    assert parse_weight("org/name:sample-10BT") == ("org/name:sample-10BT", 1.0)
    assert parse_weight("org/name:sample-10BT:2") == ("org/name:sample-10BT", 2.0)
    assert parse_weight("a.txt") == ("a.txt", 1.0)
    (tmp_path / "a:3").write_text("x")
    assert parse_weight(str(tmp_path / "a:3")) == (str(tmp_path / "a:3"), 1.0)
    for spec in ("a.txt:0", "a.txt:-1"):
        with pytest.raises(InputError, match="above 0"):
            parse_weight(spec)


BAD = {
    "no text column": ("train.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no 'text' column, there is body"),
    "no text column in csv": ("a.csv", b"body\nx\n", "line 2: no 'text' column"),
    "text is null": ("a.json", b'[{"text": null}]', "row 1: its text is absent"),
    "not json": ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "not an object": ("a.jsonl", b"[1]\n", "line 1: a JSON list"),
    "not utf-8 lines": ("a.jsonl", b'{"text": "caf\xe9"}\n', "line 1: not UTF-8"),
    "not utf-8 text": ("a.txt", b"caf\xe9 \n", "not UTF-8"),
    "utf-16": ("a.txt", "one".encode("utf-16"), "not UTF-8.*convert the file to UTF-8"),
    "utf-16 lines": ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n'.encode("utf-16"), "convert the file to UTF-8"),
    "not parquet": ("a.parquet", b"PAR1", "not a parquet file"),
    "unknown suffix": ("a.conll", b"x", ".conll"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case, tmp_path):
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="(?s)" + message) as error:
        list(open_documents(str(tmp_path / name))["train"])
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_without_text_and_missing_paths(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no 'text' column, there is body"):
        list(open_documents(str(tmp_path / "a.parquet"))["train"])
    with pytest.raises(InputError, match="no such file"):
        open_documents(str(tmp_path / "nowhere.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file that ends in"):
        open_documents(str(tmp_path / "empty"))
    write(tmp_path / "empty", "jsonl", name="dev")
    with pytest.raises(InputError, match="no train split"):
        open_documents(str(tmp_path / "empty"))


def test_compressed_texts_stream_in_the_same_fragments(monkeypatch, tmp_path):
    monkeypatch.setattr(documents, "FRAGMENT", 64)
    text = "\n".join(f"word{i} é" for i in range(100)) + "\n"
    lines = "".join(json.dumps({"text": one}) + "\n" for one in [text, *TEXTS])
    for suffix, kind in (("gz", "gzip"), ("zst", "zstd")):
        for name, content in (("a.txt", text), ("a.jsonl", lines), ("bad.jsonl", '{"text": "a"}\n{"text":\n')):
            (tmp_path / name).write_text(content)
            with pa.CompressedOutputStream(str(tmp_path / f"{name}.{suffix}"), kind) as file:
                file.write(content.encode())
        for name in ("a.txt", "a.jsonl"):
            plain, packed = (open_documents(str(tmp_path / x))["train"] for x in (name, f"{name}.{suffix}"))
            assert list(plain) == list(packed)
        with pytest.raises(InputError, match=f"bad.jsonl.{suffix}, line 2: not JSON"):
            list(open_documents(str(tmp_path / f"bad.jsonl.{suffix}"))["train"])


def test_saved_sets_patterns_and_arrow_files_give_their_texts(tmp_path):
    import datasets

    saved = datasets.Dataset.from_list([{"text": text} for text in TEXTS])
    saved.save_to_disk(tmp_path / "saved")
    found = open_documents(str(tmp_path / "saved"))["train"]
    assert whole(found) == TEXTS
    assert found.key == open_documents(str(tmp_path / "saved"))["train"].key
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    assert whole(open_documents(str(arrow))["train"]) == TEXTS
    (tmp_path / "data").mkdir()
    for shard, text in enumerate(TEXTS):
        write(tmp_path / "data", "parquet", [text], f"train-{shard}")
    assert whole(open_documents(f"{tmp_path}/data/train-*.parquet")["train"]) == TEXTS


def test_rows_whose_text_is_none_are_left_out_and_counted(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text, "id": 1}) for text in ["one", "a \ud83d b", *["two"] * 18]]
    path.write_text("\n".join(lines))
    (documents,) = open_documents(str(path)).values()
    assert list(documents.texts()) == ["one", *["two"] * 18]
    left_out = {"a lone surrogate in text": [f"{path}, line 2"]}
    assert documents.report.dropped == left_out
    for _ in range(2):  # written, and read from the cache
        corpus = open_corpus(documents, tokenizer, len(tokenizer), root=tmp_path)
        assert (len(corpus.ends), corpus.report.dropped, [*corpus.report.unread]) == (19, left_out, ["id"])
    (meta,) = (tmp_path / "tokens").glob("*/meta.json")
    noted = json.loads(meta.read_text())
    for rows in ({"dropped": left_out}, None):  # what earlier versions noted
        meta.write_text(json.dumps({**noted, "rows": rows} if rows else {k: noted[k] for k in noted if k != "rows"}))
        fresh = open_documents(str(path))["train"]
        report = open_corpus(fresh, tokenizer, len(tokenizer), root=tmp_path).report
        assert (report.dropped, [*report.unread]) == (left_out if rows else {}, ["id"])
    meta.write_text(json.dumps(noted))
    strict = open_documents(str(path), max_bad_rows=0.01)["train"]
    for read in (lambda: list(strict), lambda: open_corpus(strict, tokenizer, len(tokenizer), root=tmp_path)):
        with pytest.raises(InputError, match=r"line 2: a lone surrogate .* \(1 of 20 rows are bad, above"):
            read()


def test_a_pointer_of_git_lfs_is_no_text(tmp_path):
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
        with pytest.raises(InputError, match=f"{name}: Git LFS left a pointer in place of the file"):
            list(open_documents(str(tmp_path / name))["train"])


def test_a_row_that_is_held_out_is_no_bad_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [None, *"abcdefghijklmnopqrstuvw"]))
    splits = open_documents(str(path), holdout=0.5)
    assert list(splits["dev"].texts()) == [*"bdfhjlnprtv"]
    assert list(splits["train"].texts()) == [*"acegikmoqsuw"]
    assert splits["train"].report.dropped == {"text is absent": [f"{path}, line 1"]}
    assert splits["dev"].report.dropped == {}


def test_columns_that_nothing_reads_are_noted(tmp_path):
    rows = [{"text": "a", "id": 1}, {"text": "b", "url": "x"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "b.parquet")
    for name, unread in (("a.jsonl", ["id", "url"]), ("b.parquet", ["id"])):
        documents = open_documents(str(tmp_path / name))["train"]
        list(documents.texts())
        assert list(documents.report.unread) == unread
