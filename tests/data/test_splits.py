"""Which parts of a data set are train, dev and test: `--split`."""

import json

import datasets
import pytest
from data_rows import write_jsonl

from jaxllm.data import sources
from jaxllm.data.splits import choose, parse_splits
from jaxllm.data.tagging.load import load_tagged
from jaxllm.data.text.documents import open_documents
from jaxllm.types import InputError


def test_the_value_of_the_flag():
    assert parse_splits("") == {}
    assert parse_splits("train=a+b,dev=c, test=d*") == {"train": ["a", "b"], "dev": ["c"], "test": ["d*"]}


@pytest.mark.parametrize(("text", "words"), [
    ("train", "give train=NAME"), ("train=", "give train=NAME"), ("train=a+", "give train=NAME"),
    ("trian=a", "train"), ("dev=a", "add train=NAME"), ("train=a,train=b", "train is there twice"),
])  # fmt: skip
def test_bad_values_are_named(text, words):
    with pytest.raises(InputError) as caught:
        parse_splits(text)
    assert str(caught.value).startswith(f"--split {text}: ")
    assert words in str(caught.value)


NAMES = [
    "train.jsonl", "train-00000-of-00002.jsonl.gz", "train-00001-of-00002.jsonl.gz", "dev_matched.jsonl",
    "dev_mismatched.jsonl", "held/a.csv", "held/b.csv", "v1.5.parquet",
]  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), [
    ("train.jsonl", ["train.jsonl"]),
    ("train", ["train.jsonl"]),
    ("train-00001-of-00002", ["train-00001-of-00002.jsonl.gz"]),
    ("train-*", ["train-00000-of-00002.jsonl.gz", "train-00001-of-00002.jsonl.gz"]),
    ("dev_mismatched", ["dev_mismatched.jsonl"]),
    ("held", ["held/a.csv", "held/b.csv"]),
    ("held/b.csv", ["held/b.csv"]),
    ("b", ["held/b.csv"]),
    ("v1.5", ["v1.5.parquet"]),
    ("held+v1.5+held/b.csv", ["held/a.csv", "held/b.csv", "v1.5.parquet"]),
])  # fmt: skip
def test_a_name_fits_whole_names_before_shorter_ones(name, wanted):
    assert choose({own: own for own in NAMES}, f"train={name}", "x") == {"train": wanted}
    assert choose({own: own for own in NAMES if own != "train.jsonl"}, "train=train", "x")["train"] == NAMES[1:3]


def test_a_name_that_is_not_there_lists_what_is():
    with pytest.raises(InputError) as caught:
        choose(dict.fromkeys(NAMES), "train=train,dev=validation", "folder")
    assert str(caught.value) == f"--split dev=validation: not in folder, which has {', '.join(NAMES)}"


FOLDER = {"big-0.jsonl": "b0", "big-1.jsonl": "b1", "small.jsonl": "s", "data/more.jsonl": "m", "extra/x.jsonl": "x"}


@pytest.fixture
def folder(tmp_path):
    for name, text in FOLDER.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [{"text": text}])
    (tmp_path / "notes.md").write_text("no data")
    return tmp_path


@pytest.mark.parametrize(("split", "wanted"), [
    ("train=big,dev=small", {"train": ["b0", "b1"], "dev": ["s"]}),
    ("train=big-1+extra,test=more", {"train": ["b1", "x"], "test": ["m"]}),
    ("train=b*.jsonl,dev=data/more.jsonl", {"train": ["b0", "b1"], "dev": ["m"]}),
])  # fmt: skip
def test_files_and_folders_by_name(folder, split, wanted):
    found = sources.load(folder, split)
    assert {name: [row["text"] for row in rows] for name, rows in found.items()} == wanted
    found = open_documents(str(folder), split=split)
    assert {name: list(documents.texts()) for name, documents in found.items()} == wanted


def test_a_file_that_is_not_there(folder):
    for load in (sources.load, open_documents):
        with pytest.raises(InputError, match=r"--split train=large: not in .*, which has big-0.jsonl, big-1.jsonl, sm"):
            load(str(folder), split="train=large")


def test_files_of_a_pattern_by_name(folder):
    found = sources.load(f"{folder}/*.jsonl", "train=big-0,dev=big-1")
    assert {name: rows[:] for name, rows in found.items()} == {"train": [{"text": "b0"}], "dev": [{"text": "b1"}]}
    assert found["dev"].where(0) == f"{folder}/big-1.jsonl, line 1"


def test_splits_of_saved_sets_and_of_the_hub(tmp_path, monkeypatch):
    held = {
        name: datasets.Dataset.from_list([{"text": name}]) for name in ("train_sft", "train_gen", "test_sft", "odd")
    }
    datasets.DatasetDict(held).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(sources, "download_dataset", lambda dataset: held)
    split = "train=train_sft+train_gen,dev=odd,test=test_sft"
    for dataset in (tmp_path / "saved", "org/name", "org/name:config"):
        found = {name: [row["text"] for row in rows] for name, rows in sources.load(dataset, split).items()}
        assert found == {"train": ["train_sft", "train_gen"], "dev": ["odd"], "test": ["test_sft"]}
        with pytest.raises(InputError, match=r"--split train=x: not in .*, which has train_sft, train_gen, test"):
            sources.load(dataset, "train=x")
    with pytest.raises(InputError, match="names a split to train on already"):
        sources.load("org/name::train_sft", split)


def test_files_of_columns_under_any_name(tmp_path):
    (tmp_path / "wnut.one").write_text("Ada B-per\nmet O\n")
    (tmp_path / "wnut.two").write_text("Alan B-per\n")
    (tmp_path / "rows.json").write_text(json.dumps([{"tokens": ["Eve"], "ner_tags": ["B-per"]}]))
    found = load_tagged(tmp_path, split="train=wnut.one+rows,dev=wnut.two")
    assert [row["tokens"] for row in found["train"]] == [["Ada", "met"], ["Eve"]]
    assert [row["tokens"] for row in found["dev"]] == [["Alan"]]


def test_the_embedded_corpus_by_name():
    own = {name: list(documents.texts()) for name, documents in open_documents("builtin").items()}
    found = open_documents("builtin", split="train=dev")
    assert {name: list(documents.texts()) for name, documents in found.items()} == {"train": own["dev"]}
    both = open_documents("builtin", split="train=dev+train")["train"]
    assert list(both.texts()) == own["dev"] + own["train"]
