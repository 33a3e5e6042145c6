"""Neighbouring sentences as context: which words they are, which tokens fit, and that none of them is scored."""

import numpy as np
import pytest

from jaxllm import hf
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging.context import in_context
from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tagging.windows import widen

LABELS = ("O", "B-per", "I-per", "B-loc")


@pytest.fixture(scope="module")
def tokenizer(bert):
    return hf.load_tokenizer(str(bert))


def sentence(words, document=0, **more):
    words = words.split()
    return Sentence(words, ["B-per"] + ["O"] * (len(words) - 1), "f", document=document, **more)


def test_words_before_and_after_are_of_the_same_document():
    given = [sentence("a b"), sentence("c"), sentence("d e f"), sentence("g", 1), sentence("h i j", 1)]
    found = list(in_context(iter(given), 2))
    assert found[0].words == ["a", "b"], "the sentences themselves are as they were"
    around = [(" ".join(one.left), " ".join(one.right)) for one in found]
    assert around == [("", "c d"), ("a b", "d e"), ("b c", ""), ("", "h i"), ("g", "")]
    assert list(in_context(given, 0)) == given


def test_no_more_is_read_ahead_than_is_needed():
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield sentence("a b c")

    next(in_context(source(), 4))
    assert read == [0, 1, 2]


@pytest.mark.parametrize(
    ("window", "room", "most", "wanted"),
    [((10, 14), 100, 3, (7, 17)), ((1, 14), 100, 3, (0, 17)), ((10, 14), 8, 64, (8, 16)), ((1, 5), 8, 64, (0, 8)),
     ((17, 19), 8, 64, (12, 20)), ((10, 18), 8, 64, (10, 18)), ((4, 8), 8, 0, (4, 8))],
)  # fmt: skip
def test_a_window_widens_on_both_sides_as_room_allows(window, room, most, wanted):
    assert widen(*window, 20, room, most) == wanted


def test_the_tokens_beside_a_sentence_have_no_weight_and_no_prediction(tokenizer):
    words = "Anna met unaffordable Alan"
    around = sentence(words, left=["in", "the", "London"], right=["and", "went", "on"])
    (bare,) = ner.encode([around], tokenizer, LABELS, 64).examples
    encoded = ner.encode([around], tokenizer, LABELS, 64, context=2)
    (example,) = encoded.examples
    text = tokenizer.convert_ids_to_tokens(example.tokens.tolist())
    parts = ([token for word in part for token in tokenizer.tokenize(word)] for part in (around.left, around.right))
    left, right = parts
    inner = tokenizer.convert_ids_to_tokens(bare.tokens[1:-1].tolist())
    assert text == ["[CLS]", *left[-2:], *inner, *right[:2], "[SEP]"]
    shift = slice(3, 3 + len(inner))
    np.testing.assert_array_equal(example.weights[shift], bare.weights[1:-1])
    np.testing.assert_array_equal(example.targets[shift], bare.targets[1:-1])
    assert example.weights.sum() == bare.weights.sum() == 4
    (answers,) = ner.stitch(encoded, [np.arange(len(text))])
    assert answers.tolist() == (np.flatnonzero(bare.weights) + 2).tolist()


def test_windows_of_a_long_sentence_are_as_without_context_where_there_is_no_room(tokenizer):
    long = sentence("Anna met Alan in London " * 6, left=["on"] * 9, right=["on"] * 9)
    assert len(ner.encode([long], tokenizer, LABELS, 12).examples) > 1
    for context in (0, 5):
        windows = ner.encode([long], tokenizer, LABELS, 12, context)
        assert all(len(example.tokens) <= 12 for example in windows.examples)
        assert sum(example.weights.sum() for example in windows.examples) == len(long.words)
        assert sorted(np.concatenate(windows.words).tolist()) == list(range(len(long.words)))
