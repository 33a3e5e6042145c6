"""Masking: shares, special tokens, whole words, and masks that follow from seed, epoch and example alone."""

import dataclasses

import numpy as np
import pytest

from jaxllm.data import tokenizers
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.text.documents import open_documents
from jaxllm.data.text.masking import MaskedBatches, Masking, Pieces, masked_loader, masking_of
from jaxllm.data.text.token_cache import Marks, open_corpus
from jaxllm.types import InputError

V, MASK = 100, 3
SPECIAL = np.arange(V) < 5
MASKING = Masking(MASK, SPECIAL)


def text(length, seed=0):
    return np.concatenate([[1], np.random.default_rng(seed).integers(5, V, length), [2]]).astype(np.int32)


def test_the_shares_are_those_asked_for():
    tokens = text(200_003)
    found = MASKING.apply(tokens, (0, 1))
    hidden = found.weights > 0
    assert abs(hidden.sum() - 0.15 * 200_003) < 1
    np.testing.assert_array_equal(found.targets[hidden], tokens[hidden])
    np.testing.assert_array_equal(found.tokens[~hidden], tokens[~hidden])
    masked, kept = found.tokens[hidden] == MASK, found.tokens[hidden] == tokens[hidden]
    assert abs(masked.mean() - 0.8) < 0.01
    assert abs(kept.mean() - 0.1 - 0.1 / 95) < 0.01
    others = found.tokens[hidden & (found.tokens != MASK)]
    assert not SPECIAL[others].any()
    assert len(np.unique(others)) == 95


def test_special_tokens_are_never_hidden_and_short_texts_get_their_share():
    counts = []
    for i in range(4000):
        found = MASKING.apply(text(3, i), (0, i))
        assert not found.weights[[0, -1]].any()
        counts.append(found.weights.sum())
    assert set(counts) == {0, 1}
    assert abs(np.mean(counts) - 0.45) < 0.03
    assert not MASKING.apply(np.array([1, 2]), (0,)).weights.any()


def test_masks_follow_from_the_key_alone():
    a, b, c = (MASKING.apply(text(50), key) for key in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    assert (a.weights != c.weights).any()


def test_whole_words_are_hidden_whole():
    masking = dataclasses.replace(MASKING, rate=0.3, continues_V=np.arange(V) >= 60)
    hidden_share = []
    for i in range(200):
        tokens = text(40, i)
        hidden = masking.apply(tokens, (0, i)).weights > 0
        assert not hidden[[0, -1]].any()
        for at in range(2, len(tokens) - 1):  # the first token begins a word, whatever it is
            if tokens[at] >= 60:
                assert hidden[at] == hidden[at - 1]
        hidden_share.append(hidden.sum() / 40)
    assert abs(np.mean(hidden_share) - 0.3) < 0.03


def test_words_of_each_kind_of_tokenizer():
    wordpiece = builtin.wordpiece(["walking talking", "un-walk"], 600)
    continues = masking_of(wordpiece, whole_words=True).continues_V
    ids = wordpiece("walkinggg", add_special_tokens=False)["input_ids"]
    assert [bool(continues[i]) for i in ids] == [False] + [True] * (len(ids) - 1)
    bpe = tokenizers.bpe(["a walk, a talk"] * 9, 270)
    bpe.add_special_tokens({"mask_token": "<mask>"})
    continues = masking_of(bpe, whole_words=True).continues_V
    named = {token: bool(continues[i]) for token, i in bpe.get_vocab().items()}
    assert (named["a"], named["\u0120"], named[","]) == (True, False, False)
    plain = tokenizers.characters(["ab"])
    plain.add_special_tokens({"mask_token": "<mask>"})
    with pytest.raises(InputError, match="--whole-words: the tokenizer does not mark where words begin"):
        masking_of(plain, whole_words=True)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_bad_rates(rate):
    with pytest.raises(InputError, match="--mask-rate"):
        masking_of(builtin.wordpiece(["a"], 600), rate=rate)


def test_other_bad_input():
    with pytest.raises(InputError, match=r"--mask-replace-prob 0\.9 --random-replace-prob 0\.2"):
        masking_of(builtin.wordpiece(["a"], 600), replace=0.9, random=0.2)
    with pytest.raises(InputError, match="has no mask token"):
        masking_of(tokenizers.bpe(["a b"], 260))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    lines = [" ".join(f"w{(i * j) % 17}" for j in range(1, 3 + 7 * i % 60)) for i in range(40)]
    (folder / "x.csv").write_text("text\n" + "\n".join(lines) + "\n")
    tokenizer = builtin.wordpiece(lines, 600)
    documents = open_documents(str(folder / "x.csv"))["train"]
    return open_corpus(documents, tokenizer, len(tokenizer), root=folder / "cache"), tokenizer, lines


@pytest.mark.parametrize("pack", [True, False])
def test_pieces_hold_every_token_once_between_marks(corpus, pack):
    found, tokenizer, lines = corpus
    pieces = Pieces(found, 32, Marks.of(tokenizer), pack)
    numbers = [number for row in range(len(pieces)) for number in pieces.numbers(row)]
    assert sorted(numbers) == list(range(len(numbers)))
    if not pack:
        assert len(pieces) == len(numbers)
    inner = []
    for number in sorted(numbers):
        tokens = pieces.tokens(number)
        assert (tokens[0], tokens[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert 3 <= len(tokens) <= 32
        inner += tokens[1:-1].tolist()
    assert inner == [i for line in lines for i in tokenizer(line, add_special_tokens=False)["input_ids"]]
    assert all(sum(len(pieces.tokens(n)) for n in pieces.numbers(row)) <= 32 for row in range(len(pieces)))


def test_a_piece_has_one_mask_in_an_epoch_whatever_the_batch(corpus):
    found, tokenizer, _ = corpus
    pieces, masking = Pieces(found, 32, Marks.of(tokenizer)), masking_of(tokenizer)

    def examples(batch_size, epoch):
        """The masked texts of an epoch of the corpus, sorted."""
        feed = masked_loader([pieces], [1.0], masking, batch_size=batch_size, seed=3)
        rows = []
        for step in range(-(-(epoch + 1) * len(pieces) // batch_size)):
            batch = feed.batch(step)
            rows += [(batch.tokens_BT[r].tobytes(), batch.weights_BT[r].tobytes()) for r in range(batch_size)]
        return sorted(rows[epoch * len(pieces) : (epoch + 1) * len(pieces)])

    assert examples(2, 0) == examples(5, 0)
    assert examples(2, 1) == examples(5, 1)
    assert examples(2, 0) != examples(2, 1)
    once, again = (list(MaskedBatches([pieces], masking, 4)) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
    assert all((batch.weights_BT > 0).sum() for batch in once)
