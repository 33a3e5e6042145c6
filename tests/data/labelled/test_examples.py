"""Texts as examples: the tokens of transformers, the token that is read, types of pairs, targets beside the batch."""

import numpy as np
import pytest

from jaxllm.data.builtin.ner import wordpiece
from jaxllm.data.labelled.examples import encode, labelled_loader, targets_of, with_targets
from jaxllm.data.labelled.rows import Text
from jaxllm.data.loader import lengths
from jaxllm.data.packing import make_plan
from jaxllm.data.report import Report
from jaxllm.types import Batch, InputError, Labelled

TOKENIZER = wordpiece(["the cat sat on a mat", "a dog ran"], 400)


def texts(*found, pair=None, label=None):
    return [Text(text, pair, label, f"row {i}") for i, text in enumerate(found)]


def test_tokens_and_types_are_those_of_the_tokenizer():
    (example,) = encode(texts("the cat", pair="a dog ran"), TOKENIZER, 32, last=False, types=2)
    wanted = TOKENIZER("the cat", "a dog ran")
    assert example.tokens.tolist() == wanted["input_ids"]
    assert example.types.tolist() == wanted["token_type_ids"]
    assert np.flatnonzero(example.weights).tolist() == [0]
    for more in ({"pair": None}, {"pair": "a"}):
        assert encode(texts("the cat", **more), TOKENIZER, 32, last=False, types=1)[0].types is None


def test_long_texts_are_cut_and_counted():
    report = Report()
    short, long = encode(texts("a", "a dog ran " * 9), TOKENIZER, 8, last=False, report=report)
    assert len(long.tokens) == 8
    assert long.tokens[-1] == TOKENIZER.sep_token_id
    assert len(short.tokens) == 3
    assert report.cut == {"texts": 1}
    with pytest.raises(InputError, match="--max-length 3 leaves no room"):
        encode(texts("a", pair="b"), TOKENIZER, 4 - 1, last=False)


def test_the_last_token_that_is_no_padding_is_read():
    (one,) = encode(texts("a dog ran"), TOKENIZER, 32, last=True)
    assert np.flatnonzero(one.weights).tolist() == [len(one.tokens) - 1]
    pad = TOKENIZER.pad_token_id
    TOKENIZER.pad_token = "[SEP]"  # as decoders whose padding is their end token
    try:
        (one,) = encode(texts("a dog ran"), TOKENIZER, 32, last=True)
    finally:
        TOKENIZER.pad_token = "[PAD]"
    assert np.flatnonzero(one.weights).tolist() == [len(one.tokens) - 2]
    assert TOKENIZER.pad_token_id == pad


def test_targets():
    labels = ("x", "y", "z")
    assert targets_of(texts("a", label="y"), labels, "single").tolist() == [1]
    assert targets_of(texts("a", label=("z", "x")), labels, "multi").tolist() == [[1, 0, 1]]
    assert targets_of(texts("a", label=2.5), ("n",), "regression").tolist() == [[2.5]]


def batches(targets, weights=None, pair=None):
    examples = encode(texts("the cat", "a dog ran", "a", "cat", pair=pair), TOKENIZER, 32, last=False, types=2)
    weights = np.ones(4, np.float32) if weights is None else weights
    plan = make_plan(lengths(examples), batch_size=4, multiple=2)
    return labelled_loader(with_targets(examples, targets, weights), targets, plan).batch(0), plan.step(0)


def test_a_class_stands_at_the_token_that_is_read():
    batch, rows = batches(np.array([2, 0, 1, 2], np.int32), np.array([1, 2, 3, 4], np.float32))
    assert isinstance(batch, Batch)
    assert batch.types_BT is None
    for r, row in enumerate(rows):
        at = np.flatnonzero(batch.weights_BT[r])
        assert (batch.positions_BT[r, at] == 0).all()
        assert batch.targets_BT[r, at].tolist() == [[2, 0, 1, 2][i] for i in row]
        assert batch.weights_BT[r, at].tolist() == [i + 1 for i in row]


def test_vectors_lie_beside_the_batch():
    targets = np.arange(8, dtype=np.float32).reshape(4, 2)
    found, rows = batches(targets, pair="ran")
    assert isinstance(found, Labelled)
    assert set(np.unique(found.batch.types_BT)) == {0, 1}
    for r, row in enumerate(rows):
        at = np.flatnonzero(found.batch.weights_BT[r])
        np.testing.assert_array_equal(found.targets_BAV[r, found.batch.targets_BT[r, at]], targets[row])
