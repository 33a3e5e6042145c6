"""From a data set to texts, labels, weights and a problem: files of many shapes, held-out rows, bad input."""

import dataclasses
import json

import numpy as np
import pytest

from jaxllm.recipes.labelled import LabelledFlags, find_loss, read_labelled
from jaxllm.types import InputError


def write(folder, rows, name="train.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(dataset, **flags):
    return read_labelled(LabelledFlags(dataset=str(dataset), **flags))


def of_class(n, labels="ab"):
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(n)]


def test_a_tenth_is_held_out_and_said(tmp_path):
    data = read(write(tmp_path, of_class(30)))
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 27, "dev": 3}
    assert (data.labels, data.problem) == (("a", "b"), "single")
    assert ("", "no dev split: 0.1 of train is held out as dev (--holdout)") in data.lines
    assert ("task", "one of 2 labels, text, labelled by label") in data.lines
    assert len(read(tmp_path, holdout=0.0).splits) == 1


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.json", "train.parquet"])
def test_every_format_gives_the_same_texts(name, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"sentence1": f"a, {i}", "sentence2": f"b {i}", "score": i / 4} for i in range(20)]
    path, apart = tmp_path / name, {"csv": ",", "tsv": "\t"}.get(name[6:])
    if apart:
        path.write_text(
            "\n".join(apart.join(f'"{x}"' for x in line) for line in [rows[0], *(r.values() for r in rows)])
        )
    elif name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    data = read(path)
    assert (data.problem, data.labels) == ("regression", ("score",))
    train = data.splits["train"].rows
    assert (train[1].text, train[1].pair, train[1].label) == ("a, 1", "b 1", 0.25)


def test_a_split_without_labels_is_not_scored(tmp_path):
    write(tmp_path, of_class(10))
    write(tmp_path, [{"text": "x", "label": -1}], "test.jsonl")
    data = read(tmp_path)
    assert data.splits.keys() == {"train", "dev"}
    assert ("", "test: no labels, so it is not scored") in data.lines


def test_weights_of_classes(tmp_path):
    write(tmp_path, of_class(30, "aab"))
    balanced = read(tmp_path, holdout=0.0, class_weights=("balanced",))
    np.testing.assert_allclose(balanced.weights_V, [30 / (2 * 20), 30 / (2 * 10)])
    targets, weights = balanced.training_targets()
    np.testing.assert_allclose(weights, balanced.weights_V[targets])
    assert read(tmp_path, class_weights=("b=3",)).weights_V.tolist() == [1, 3]
    rows = [{"text": "x", "label": ["p"] if i % 4 else ["p", "q"]} for i in range(20)]
    several = read(write(tmp_path, rows), holdout=0.0, class_weights=("balanced",))
    targets, weights = several.training_targets()
    np.testing.assert_allclose(several.weights_V, [1 / 20, 15 / 5])
    np.testing.assert_allclose(targets[:2], [[1 / 20, 3], [1 / 20, 0]])
    assert (weights == 1).all()
    assert several.targets("train")[0].tolist() == [1, 1], "scores are of the labels as they are"


def bad(case, folder):
    rows, more, flags = case(of_class(30))
    write(folder, rows)
    for name, others in more.items():
        write(folder, others, name)
    return flags


BAD = {
    "a label unseen in training": (
        lambda rows: (rows, {"dev.jsonl": [*rows[:3], {"text": "x", "label": "c"}]}, {}),
        "dev.jsonl, line 4: label 'c' is unseen in training",
    ),
    "a label that is no number": (
        lambda rows: ([{"text": "x", "label": x} for x in (0.5, "much", 1.5)], {}, {}),
        "train.jsonl, line 2: label 'much' is no number",
    ),
    "a pair with one text": (
        lambda rows: ([{"premise": "x", "hypothesis": "y", "label": "a"}, {"premise": "x", "label": "a"}], {}, {}),
        "train.jsonl, line 2: a pair with one text, premise; give it hypothesis too",
    ),
    "a class of which all is held out": (
        lambda rows: ([*rows[:9], {"text": "x", "label": "c"}, *rows[10:]], {}, {}),
        "train.jsonl, line 10: class 'c' has no example left in train",
    ),
    "one class": (lambda rows: ([{"text": "x", "label": "a"}] * 3, {}, {}), "every row of train has the label 'a'"),
    "problem": (lambda rows: (rows, {}, {"problem": "regresion"}), "--problem regresion: .*did you mean regression"),
    "weight of no class": (lambda rows: (rows, {}, {"class_weights": ("c=2",)}), "--class-weights c=2: give balanced"),
    "no weight": (lambda rows: (rows, {}, {"class_weights": ("a=x",)}), "'x' is no number"),
    "weight 0": (lambda rows: (rows, {}, {"class_weights": ("a=0",)}), "a finite weight above 0"),
    "weights of numbers": (
        lambda rows: ([{"text": "x", "label": 0.5}] * 3, {}, {"class_weights": ("balanced",)}),
        "numbers have no classes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_file_and_row(case, tmp_path):
    make, message = BAD[case]
    flags = bad(make, tmp_path)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, **flags)
    assert "\n" not in str(error.value)


def test_a_listed_class_without_example_is_named(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    rows = {"text": ["x"] * 20, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        InputError, match=r"train.parquet: class 'c', which label lists, has no example in train \(1 such\)"
    ):
        read(tmp_path)


def test_the_loss_is_of_the_problem():
    flags = LabelledFlags()
    assert [find_loss(flags, x).name for x in ("single", "multi", "regression")] == [
        "cross_entropy", "binary_cross_entropy", "mse",
    ]  # fmt: skip
    assert find_loss(dataclasses.replace(flags, loss="focal"), "single").name == "focal"
    for name, problem in (("mse", "single"), ("focal", "multi"), ("sigmoid", "single")):
        with pytest.raises(InputError, match=f"--loss {name} is no loss for"):
            find_loss(dataclasses.replace(flags, loss=name), problem)
