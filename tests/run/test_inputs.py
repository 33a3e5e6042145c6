"""Hashes of what the rows of a run are made of, and the words for what changed."""

import dataclasses

from jaxllm.run import inputs
from jaxllm.run.inputs import changed_files, changes, contents


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: str | tuple[str, ...]
    eval_dataset: str = ""


def data(*names):
    return contents(Config(names if len(names) > 1 else names[0])).get("dataset")


def test_contents_do_not_depend_on_where_a_file_lies(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text("one")
    b.write_text("one")
    before = data(str(a))
    assert before == data(str(b))
    assert data(f"{a}:0.5", str(b)) != data(f"{a}:0.7", str(b))
    b.write_text("two")
    assert before != data(str(b))
    assert data("owner/name-at-the-hub") is None
    assert "eval_dataset" not in contents(Config(str(a)))


def test_names_within_a_folder_count(tmp_path):
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text(name)
    before = data(str(tmp_path / "x"))
    (tmp_path / "x").rename(tmp_path / "y")
    assert before == data(str(tmp_path / "y"))
    (tmp_path / "y" / "dev.jsonl").rename(tmp_path / "y" / "test.jsonl")
    assert before != data(str(tmp_path / "y"))


def test_of_a_large_file_the_size_beginning_and_end_count(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_BLOCKS", 4)
    monkeypatch.setattr(inputs, "_BLOCK", 8)
    path = tmp_path / "large"
    found = set()
    for text in (b"x" * 1000, b"x" * 1001, b"y" + b"x" * 999, b"x" * 999 + b"y"):
        path.write_bytes(text)
        found.add(data(str(path)))
    assert len(found) == 4


def test_files_that_changed_are_told_and_folders_are_not(tmp_path):
    one, two, folder = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "folder"
    folder.mkdir()
    for path in (one, two, folder / "train.jsonl"):
        path.write_text("a")

    def now(*names, evaluated=""):
        config = Config(names, str(evaluated))
        return {"config": dataclasses.asdict(config), "contents": contents(config)}

    runs = [now(f"{one}:0.5", str(two)), now(str(folder)), now(str(folder), evaluated=one), now("owner/at-the-hub")]
    assert all(changed_files(run, run) == [] == changed_files({}, run) for run in runs)
    for path in (one, folder / "notes.txt"):
        path.write_text("b")
    again = [now(f"{one}:0.5", str(two)), now(str(folder)), now(str(folder), evaluated=one), now("owner/at-the-hub")]
    told = [changed_files(*pair) for pair in zip(runs, again, strict=True)]
    assert told[0] == [f"the contents of --dataset {(f'{one}:0.5', str(two))} changed"]
    assert told[1:] == [[], [f"the contents of --eval-dataset {one} changed"], []]


def test_what_changed_is_said_in_words():
    there = {
        "config": {"dataset": "d.jsonl"}, "contents": {"dataset": "1"}, "began": "2026-01-01T00:00:00",
        "encoding": {"tokenizer": "1", "chat template": "1"},
    }  # fmt: skip
    assert "or versions of packages changed" in changes(there, there)
    assert changes(there, {**there, "contents": {"dataset": "2"}}) == "the contents of --dataset d.jsonl changed"
    other = {**there, "encoding": {"tokenizer": "2", "chat template": "3"}}
    assert changes(there, other) == "another tokenizer; another chat template"
    older = {"config": {"dataset": "d.jsonl"}}
    assert "writes today's date" in changes(older, {**there, "dated": True})
    assert "versions of packages" in changes(older, there)
