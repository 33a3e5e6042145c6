"""What the cache keeps: made once, again when its key changes, and each time where nothing can be written."""

import sys

from jaxllm.data import kept
from jaxllm.data.builtin import ner, requests


def test_is_made_once_for_a_key_and_a_damaged_file_is_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": [1, "ä"]}

    assert kept.kept("k", ["x"], make, tmp_path) == kept.kept("k", ["x"], make, tmp_path) == {"a": [1, "ä"]}
    assert len(made) == 1
    kept.kept("k", ["y"], make, tmp_path)
    assert len(made) == 2
    for path in (tmp_path / "k").iterdir():
        path.write_text('{"a": [1')
    assert kept.kept("k", ["x"], make, tmp_path) == {"a": [1, "ä"]}
    assert len(made) == 3


def test_without_a_folder_to_write_it_is_made_each_time(tmp_path):
    (tmp_path / "file").touch()
    assert kept.kept("k", 0, lambda: [1], tmp_path / "file") == [1]


def test_an_embedded_corpus_comes_back_as_it_was_made(tmp_path, monkeypatch):
    first = kept.corpus(requests.requests, tmp_path)
    assert first == kept.corpus(requests.requests, tmp_path) == requests.requests()
    assert len(list((tmp_path / "corpora").iterdir())) == 1
    assert kept.corpus(lambda: {"train": 1}, tmp_path) == {"train": 1}
    monkeypatch.setattr(sys, "version", "another")
    kept.corpus(requests.requests, tmp_path)
    assert len(list((tmp_path / "corpora").iterdir())) == 2


def test_a_vocabulary_that_is_kept_is_the_trained_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = ["the cat sat on the mat", "Utrecht is a city, the cat says"] * 3
    first = ner.wordpiece(texts, 300)
    path = next((tmp_path / "jaxllm" / "tokenizers").glob("*.json"))
    again = ner.wordpiece(iter(texts), 300)
    assert first.get_vocab() == again.get_vocab()
    assert first(texts)["input_ids"] == again(texts)["input_ids"]
    assert list(path.parent.iterdir()) == [path]
    ner.wordpiece(texts, 301)
    assert len(list(path.parent.iterdir())) == 2
