"""The embedded corpus of classified texts."""

from collections import Counter

from jaxllm.data.builtin.ner import split_of
from jaxllm.data.builtin.requests import DEMO, SENTENCES, SIZES, requests


def test_sizes_labels_and_the_same_rows_each_time():
    rows = requests()
    assert {split: len(part) for split, part in rows.items()} == SIZES
    assert rows == requests()
    assert rows != requests(1)
    for part in rows.values():
        counts = Counter(row["label"] for row in part)
        assert counts.keys() == SENTENCES.keys()
        assert min(counts.values()) > 0.1 * len(part)
        assert not any("{" in row["text"] or "[" in row["text"] for row in part)


def test_no_text_is_in_two_splits_and_goods_are_held_out():
    rows = requests()
    texts = {split: {row["text"] for row in part} for split, part in rows.items()}
    assert not texts["train"] & (texts["dev"] | texts["test"])
    assert not set(DEMO) & set.union(*texts.values())
    for split in ("dev", "test"):
        for good in ("camera", "kettle", "tent", "guitar"):
            if split_of(good) != split:
                assert not any(f" {good} " in text for text in texts[split])
