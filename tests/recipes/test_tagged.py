"""Tagged words as the script reads them: splits, labels of other splits, and the lines of the header."""

import json

import datasets
import pytest

from jaxllm.recipes.flags import check as check_flags
from jaxllm.recipes.tagged import TaggedFlags, read_tagged
from jaxllm.types import InputError


def conll(path, *sentences):
    path.write_text("\n".join("".join(f"{pair.replace('/', ' ')}\n" for pair in one.split()) for one in sentences))


def read(path, **flags):
    return read_tagged(TaggedFlags(dataset=str(path), **flags))


def test_the_header_says_which_file_is_which_split(tmp_path):
    for name in ("train.txt", "valid.txt", "test.txt"):
        conll(tmp_path / name, "Mira/B-PER sings/O")
    assert read(tmp_path).lines == [
        ("data", "1 train, 1 dev, 1 test sentences, 2 labels, IOB2"),
        ("", "; ".join(f"{split}: {name}.txt (word 1, tag 2 of 2 columns)"
                       for split, name in (("train", "train"), ("dev", "valid"), ("test", "test")))),
    ]  # fmt: skip


def test_a_tenth_is_held_out_without_a_dev_split(tmp_path):
    conll(tmp_path / "alone.txt", *["Mira/B-PER sings/O"] * 20)
    held = read(tmp_path / "alone.txt")
    assert {name: len(split) for name, split in held.splits.items()} == {"train": 18, "dev": 2}
    assert held.lines[0] == ("data", "18 train, 2 dev sentences, 2 labels, IOB2")
    assert held.lines[2] == ("", "no dev split: 0.1 of train is held out as dev (--holdout)")
    assert read(tmp_path / "alone.txt", holdout=0.0).lines[2][1] == (
        "no dev split: nothing is held out (--holdout 0), so there is no dev score"
    )
    conll(tmp_path / "two.txt", *["Mira/B-PER sings/O"] * 2)
    assert "train has too few sentences (2) to hold out 0.1" in read(tmp_path / "two.txt").lines[2][1]
    with pytest.raises(InputError, match=r"--holdout 1\.5"):
        read(tmp_path / "two.txt", holdout=1.5)


def test_an_inside_label_that_dev_alone_has_is_a_label(tmp_path):
    conll(tmp_path / "train.conll", "Oslo/B-LOC sings/O", "Oslo/B-LOC Mira/B-PER Dahl/I-PER")
    conll(tmp_path / "dev.conll", "Oslo/B-LOC City/I-LOC")
    found = read(tmp_path)
    assert found.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    assert len(found.splits["dev"]) == 1
    conll(tmp_path / "dev.conll", "Oslo/B-LOC City/I-ORG")
    with pytest.raises(InputError, match=r"dev\.conll, line 2: label 'I-ORG' is unseen in training.*1 of 1 rows"):
        read(tmp_path)


def test_labels_that_the_classes_list_are_labels(tmp_path):
    names = ["O", "B-X", "I-X", "B-Y"]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    for split, tags in (("train", [1, 0]), ("dev", [3, 0])):
        row = {"tokens": ["a", "b"], "ner_tags": tags}
        datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / f"{split}.parquet")
    assert read(tmp_path).labels == ("O", "B-X", "B-Y")


def test_bad_sentences_are_left_out_and_said(tmp_path):
    good = {"tokens": ["Mira", "sings"], "ner_tags": ["B-PER", "O"]}
    rows = [*[good] * 39, {"tokens": [], "ner_tags": []}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps({**good, "ner_tags": [tag, "O"]}) + "\n"
                                                for tag in ["B-PER"] * 20 + ["B-ORG"]))  # fmt: skip
    found = read(tmp_path)
    assert {name: (len(split), split.report.kept) for name, split in found.splits.items()} == {
        "train": (39, 39), "dev": (20, 20),
    }  # fmt: skip
    assert found.lines[-2:] == [
        ("", f"train: 1 left out, without words: {tmp_path}/train.jsonl, line 40"),
        ("", f"dev: 1 left out, with a label unseen in training: {tmp_path}/dev.jsonl, line 21"),
    ]
    with pytest.raises(InputError, match=r"train\.jsonl, line 40: no words"):
        read(tmp_path, max_bad_rows=0.0)
    (tmp_path / "only.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(InputError, match=r"only\.jsonl, line 1: no words"):
        read(tmp_path / "only.jsonl")
    with pytest.raises(InputError, match=r"--max-bad-rows 2\.0: give a share"):
        check_flags(TaggedFlags(max_bad_rows=2.0))


def test_sentences_see_their_documents_and_not_the_next_ones(tmp_path):
    conll(tmp_path / "train.conll", "-DOCSTART-/O", "Mira/B-PER sings/O", "Oslo/B-LOC", "-DOCSTART-/O", "He/O went/O")
    rows = [{"tokens": [word], "ner_tags": ["O"], "doc_id": doc} for word, doc in (("a", "x"), ("b", "x"), ("c", "y"))]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path, document_context=4)
    around = {name: [(one.left, one.right) for one in split.rows] for name, split in found.splits.items()}
    assert around["train"] == [((), ("Oslo",)), (("Mira", "sings"), ()), ((), ())]
    assert around["dev"] == [((), ("b",)), (("a",), ()), ((), ())]
    assert ("", "context of 4 tokens a side; documents: 2 in train, 2 in dev") in found.lines
    with pytest.raises(InputError, match="--document-context -1: give 0 or more"):
        read(tmp_path, document_context=-1)


def test_sentences_bad_in_their_content_are_left_out_and_named(tmp_path):
    good = "Mira B-PER\nsings O\n"
    (tmp_path / "a.conll").write_text("\n".join([*[good] * 58, "Mira B-PER\nsings\n", "Mira B-PERSON\nsings L-PER\n"]))
    found = read(tmp_path / "a.conll", scheme="IOB2", holdout=0.0)
    assert len(found.splits["train"]) == 58
    assert found.splits["train"].report.dropped == {
        "with a line that is not a word and its tag": [f"{tmp_path}/a.conll, line 175"],
        "with a tag not of IOB2": [f"{tmp_path}/a.conll, line 178"],
    }
    assert found.labels == ("O", "B-PER")
    with pytest.raises(InputError, match=r"a\.conll, line 176: 1 columns, elsewhere 2, in 'sings'; .*--max-bad-rows 0"):
        read(tmp_path / "a.conll", max_bad_rows=0.0)


def test_columns_that_nothing_reads_are_named(tmp_path):
    rows = [{"id": i, "words": ["Mira"], "ner_tags": ["B-PER"], "pos_tags": ["N"]} for i in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = read(tmp_path / "a.json", word_column="words")
    assert found.lines[-1] == ("", "columns not read: id, pos_tags")
