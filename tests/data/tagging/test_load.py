"""Data sets of tagged words, as they are distributed: file names, splits and tables."""

import gzip
import json

import pytest

from jaxllm.data.tagging.examples import sentences
from jaxllm.data.tagging.load import load_tagged
from jaxllm.data.tagging.schemes import recognise
from jaxllm.types import InputError

COLUMNS = "-DOCSTART- -X- -X- O\n\nMira NNP B-NP B-PER\nslept VBD B-VP O\n"
ROW = {"tokens": ["Mira", "slept"], "ner_tags": ["B-PER", "O"]}


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train.txt", "dev": "valid.txt", "test": "test.txt"},
        {"train": "eng.train", "dev": "eng.testa", "test": "eng.testb"},
        {"train": "NER-de-train.tsv", "dev": "NER-de-dev.tsv", "test": "NER-de-test.tsv"},
        {"train": "en-ud-train.iob2", "dev": "en-ud-dev.iob2"},
        {"train": "train.char.bmes", "dev": "dev.char.bmes"},
        {"train": "train", "dev": "validation"},
        {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"},
        {"train": "train/a.txt", "test": "test/b.txt"},
        {"train": "data/train.conll.txt", "dev": "data/dev.conll.txt"},
    ],
)
def test_columns_under_any_name(tmp_path, names):
    (tmp_path / "README").write_text("a line\n")
    for name in names.values():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(COLUMNS)
    splits = load_tagged(tmp_path)
    assert {split: rows.parts[0].name for split, rows in splits.items()} == {
        split: str(tmp_path / name) for split, name in names.items()
    }
    assert all(list(rows) == [ROW] for rows in splits.values())
    assert splits["train"].where(0, 1) == f"{tmp_path / names['train']}, line 4"


@pytest.mark.parametrize("name", ["alone.conll.txt", "wikigold", "x.annotated", "a.tsv"])
def test_a_file_alone_is_train(tmp_path, name):
    (tmp_path / name).write_text(COLUMNS)
    assert {split: list(rows) for split, rows in load_tagged(tmp_path / name).items()} == {"train": [ROW]}


def test_windows_text_and_conll2003_as_it_is_published(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffMira B-PER\r\nslept O\r\n\r\n".encode())
    assert list(load_tagged(tmp_path / "a.txt")["train"]) == [ROW]
    one, two = "EU NNP I-NP I-ORG \nrejects VBZ I-VP O\n", "Peter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER  \n"
    (tmp_path / "b.txt").write_text(f"-DOCSTART- -X- O O\n\n{one}\n{two}")
    rows = load_tagged(tmp_path / "b.txt")["train"]
    assert list(rows) == [
        {"tokens": ["EU", "rejects"], "ner_tags": ["I-ORG", "O"]},
        {"tokens": ["Peter", "Blackburn"], "ner_tags": ["I-PER", "I-PER"]},
    ]
    assert recognise(sentences(rows)) == "IOB1"


def test_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "train.txt").write_text(COLUMNS)
    (tmp_path / "._train.txt").write_bytes(b"\0\5\x16\7")
    assert list(load_tagged(tmp_path)["train"]) == [ROW]


def test_compressed(tmp_path):
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(COLUMNS.encode()))
    assert list(load_tagged(tmp_path)["train"]) == [ROW]


def test_text_is_refused(tmp_path):
    (tmp_path / "train.txt").write_text("Mira slept.\nThen she sang to him.\n")
    with pytest.raises(
        InputError, match=r"train\.txt: a \.txt without columns of words and tags; write a word and its"
    ):
        load_tagged(tmp_path)
    (tmp_path / "x.foo").write_text("Mira slept.\nThen she sang to him.\n")
    with pytest.raises(InputError, match=r"x\.foo: cannot read \.foo; give \.jsonl"):
        load_tagged(tmp_path / "x.foo")


def test_the_columns_of_train_hold_for_dev(tmp_path):
    (tmp_path / "train.txt").write_text("1\tMira\tB-PER\tO\n2\tslept\tO\tO\n")
    (tmp_path / "dev.txt").write_text("1\tMira\tO\tB-PER\n2\tslept\tO\tO\n")
    splits = load_tagged(tmp_path)
    assert list(splits["train"]) == [ROW]
    assert list(splits["dev"]) == [{"tokens": ["Mira", "slept"], "ner_tags": ["O", "O"]}]


def test_columns_of_tables_by_name(tmp_path):
    given = {"words": ["Mira", "slept"], "entities": ["B-PER", "O"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(given) + "\n")
    assert load_tagged(tmp_path, "words", "entities")["train"][0] == ROW
    with pytest.raises(InputError, match=r"--tag-column ner: .*train\.jsonl, line 1 has the columns words, entities"):
        load_tagged(tmp_path, "words", "ner")


def test_lists_in_csv(tmp_path):
    (tmp_path / "a.csv").write_text(
        'tokens,ner_tags\nMira slept,B-PER O\n"[""Mira"", ""slept""]","[""B-PER"", ""O""]"\n'
    )
    assert list(load_tagged(tmp_path / "a.csv")["train"]) == [ROW, ROW]


def test_documents_of_spacys_paragraphs(tmp_path):
    tokens = [{"orth": "Mira", "ner": "U-PER"}, {"orth": "slept", "ner": "O"}]
    document = {"id": 7, "paragraphs": [{"sentences": [{"tokens": tokens}, {"tokens": tokens[1:]}]}]}
    (tmp_path / "train.json").write_text(json.dumps([document, document]))
    rows = load_tagged(tmp_path)["train"]
    assert [row["tokens"] for row in rows] == [["Mira", "slept"], ["slept"]] * 2
    assert rows[0] == {"tokens": ["Mira", "slept"], "ner_tags": ["U-PER", "O"], "document": 7}
    document["paragraphs"][0]["sentences"][0]["tokens"] = [{"orth": "Mira"}]
    (tmp_path / "train.json").write_text(json.dumps([document]))
    with pytest.raises(InputError, match=r"train.json, document 1: a token without 'orth' and 'ner'; give it both"):
        load_tagged(tmp_path)
