"""Corpora and their rows: every token where it belongs, once, whatever the way of cutting."""

import dataclasses
import itertools
import json
import os

import numpy as np
import pytest

from jaxllm.data import tokenizers
from jaxllm.data.text import token_cache as corpora
from jaxllm.data.text.documents import Documents, Fragment, split_document
from jaxllm.data.text.rows import CYCLE, Concatenated, Packed, TextBatches, text_loader
from jaxllm.data.text.token_cache import Corpus, Marks, open_corpus
from jaxllm.types import InputError

TEXTS = ["ab", "abcdefgh", "a", "", "hgfedcba" * 5, "cafe", "bad"]


def documents(texts=TEXTS, name="texts"):
    return Documents(name, json.dumps(texts), lambda: (part for text in texts for part in split_document(text)))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.characters(["abcdefgh"])


def ids(text):
    return [2 + "abcdefgh".index(c) for c in text]


@pytest.fixture
def corpus(tokenizer, tmp_path):
    return open_corpus(documents(), tokenizer, 10, root=tmp_path)


def test_one_mark_stands_between_documents_and_before_the_first(corpus):
    wanted = [0] + [x for text in TEXTS if text for x in [*ids(text), 0]]
    assert corpus.tokens.tolist() == wanted
    assert corpus.tokens.dtype == np.uint16
    found = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.starts, corpus.ends, strict=True)]
    assert found == [[0, *ids(text), 0] for text in TEXTS if text]
    assert corpus.size == sum(map(len, TEXTS))


def test_two_marks_stand_at_each_document(tokenizer, tmp_path):
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="a", eos_token="<|endoftext|>")
    assert Marks.of(tokenizer) == (2, 0)
    corpus = open_corpus(documents(["bc", "d"]), tokenizer, 10, root=tmp_path)
    assert corpus.tokens.tolist() == [2, 3, 4, 0, 2, 5, 0]
    assert (corpus.starts.tolist(), corpus.ends.tolist()) == ([0, 4], [4, 7])


def test_documents_in_fragments_are_the_same_corpus(tokenizer, tmp_path):
    parts = [Fragment(c, i == 7) for i, c in enumerate("abcdefgh")] + [Fragment("", False), Fragment("", True)]
    corpus = open_corpus(Documents("parts", "parts", lambda: iter(parts)), tokenizer, 10, root=tmp_path)
    assert corpus.tokens.tolist() == [0, *ids("abcdefgh"), 0]


def test_a_corpus_is_kept_until_the_data_or_the_tokenizer_changes(tokenizer, tmp_path):
    def read():
        reads.append(1)
        yield Fragment("abc", True)

    reads = []
    source = Documents("counted", "key", read)
    first = open_corpus(source, tokenizer, 10, root=tmp_path)
    tokenizer.backend_tokenizer.enable_truncation(2)  # as a call with truncation leaves it
    tokenizer.backend_tokenizer.enable_padding(length=4)
    again = open_corpus(source, tokenizer, 10, root=tmp_path)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    assert reads == [1]
    assert first.tokens.tolist() == again.tokens.tolist()
    open_corpus(dataclasses.replace(source, key="other"), tokenizer, 10, root=tmp_path)
    open_corpus(source, tokenizers.characters(["abcd"]), 10, root=tmp_path)
    assert reads == [1, 1, 1]
    assert not list(tmp_path.rglob("partial-*"))


def test_a_damaged_corpus_is_made_again_and_a_broken_off_one_leaves_nothing(tokenizer, tmp_path):
    whole = open_corpus(documents(), tokenizer, 10, root=tmp_path).tokens.tolist()
    (path,) = tmp_path.rglob("tokens.bin")
    os.truncate(path, 10)
    assert open_corpus(documents(), tokenizer, 10, root=tmp_path).tokens.tolist() == whole

    def broken():
        yield Fragment("abc", True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_corpus(Documents("broken", "broken", broken), tokenizer, 10, root=tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_batches_do_not_change_the_corpus(tokenizer, tmp_path, monkeypatch):
    whole = open_corpus(documents(), tokenizer, 10, root=tmp_path / "a").tokens.tolist()
    monkeypatch.setattr(corpora, "BATCH", 3)
    assert open_corpus(documents(), tokenizer, 10, root=tmp_path / "b").tokens.tolist() == whole


@pytest.mark.parametrize("lost", [False, True])
def test_a_pass_that_breaks_off_goes_on_where_it_last_saved(tokenizer, tmp_path, monkeypatch, lost):
    """After a crash in the third batch; lost: what was saved is not all on the disk."""
    parts = [Fragment(c, i % 3 == 2) for i, c in enumerate("abcdefghabcdefgh")] + [Fragment("", True)]
    whole = open_corpus(Documents("parts", "parts", lambda: iter(parts)), tokenizer, 10, root=tmp_path / "whole")
    monkeypatch.setattr(corpora, "BATCH", 5)
    monkeypatch.setattr(corpora, "SAVE_EVERY", -1.0)
    encoded, say, fast = [], [], corpora.plain_encoder(tokenizer)

    class Encoder:
        def encode_batch_fast(self, texts, **options):
            if len(encoded) == 10 and broken:
                raise KeyboardInterrupt
            encoded.extend(texts)
            return fast.encode_batch_fast(texts, **options)

        def __getattr__(self, name):
            return getattr(fast, name)

    monkeypatch.setattr(corpora, "plain_encoder", lambda _: Encoder())
    source, broken = Documents("parts", "parts", lambda: iter(parts)), True
    with pytest.raises(KeyboardInterrupt):
        open_corpus(source, tokenizer, 10, root=tmp_path)
    (partial,) = (tmp_path / "tokens").glob("partial-*")
    with (partial / "tokens.bin").open("ab") as file:
        file.write(b"written after the last save")
    if lost:
        os.truncate(partial / "tokens.bin", 3)
    broken = False
    encoded.clear()
    corpus = open_corpus(source, tokenizer, 10, root=tmp_path, say=say.append)
    assert "".join(encoded) == ("abcdefghabcdefgh" if lost else "cdefgh"), "what was saved is not tokenised again"
    assert corpus.tokens.tolist() == whole.tokens.tolist()
    assert (corpus.ends.tolist(), corpus.size) == (whole.ends.tolist(), whole.size)
    assert bool(say) != lost
    assert sorted(path.name for path in (tmp_path / "tokens").glob("*/*")) == ["ends.npy", "meta.json", "tokens.bin"]


def test_bad_corpora_are_named(tokenizer, tmp_path):
    with pytest.raises(InputError, match="texts: token id 9 is beyond the model's vocabulary of 9"):
        open_corpus(documents(), tokenizer, 9, root=tmp_path)
    with pytest.raises(InputError, match="no text"):
        open_corpus(documents([""]), tokenizer, 10, root=tmp_path)
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="eos_token"):
        open_corpus(documents(), bare, 10, root=tmp_path)


def segments(batch):
    """(tokens, targets, weights, positions) of every segment of a batch."""
    for r in range(len(batch.tokens_BT)):
        for s in range(1, batch.segments_BT[r].max() + 1):
            at = batch.segments_BT[r] == s
            yield tuple(
                x[r][at].tolist() for x in (batch.tokens_BT, batch.targets_BT, batch.weights_BT, batch.positions_BT)
            )


@pytest.mark.parametrize("pack", [True, False])
def test_packed_rows_hold_every_prediction_of_every_document_once(corpus, pack):
    rows = Packed(corpus, 8, pack)
    pairs = []
    batches = list(TextBatches([rows], 4))
    shape = (3 if pack else 4, 8)  # three batches, of 9 rows or 12
    assert [batch.tokens_BT.shape for batch in batches] == [shape] * 3
    for batch in batches:
        for tokens, targets, weights, positions in segments(batch):
            assert positions == list(range(len(tokens)))
            assert targets[:-1] == tokens[1:]
            assert all(weights[:-1])
            pairs += [(a, b) for a, b, w in zip(tokens, targets, weights, strict=True) if w]
            if not pack:
                assert batch.segments_BT.max() == 1
    marked = [[0, *ids(text), 0] for text in TEXTS if text]
    assert sorted(pairs) == sorted((a, b) for doc in marked for a, b in itertools.pairwise(doc))
    # Pieces of 4, 8+2, 3, 5x8+2, 6 and 5 tokens.
    assert len(rows) == (9 if pack else 12)


def test_only_the_end_of_a_document_weighs_nothing(corpus):
    for tokens, targets, weights, _ in (s for batch in TextBatches([Packed(corpus, 6)], 4) for s in segments(batch)):
        ended = tokens[-1] == 0 and len(tokens) > 1
        assert weights[-1] == (0.0 if ended else 1.0)
        assert not ended or targets[-1] == 0


def test_concatenated_rows_are_one_stream(corpus):
    rows, n = Concatenated(corpus, 7), len(corpus.tokens)
    stream = corpus.tokens.astype(int)
    ring = np.concatenate([stream, stream])
    for offset in (0.0, 0.37, 0.99):
        start = int(offset * n)
        for i in range(len(rows)):
            (example,) = rows.row(i, offset)
            at = (start + 7 * i) % n
            assert example.tokens.tolist() == ring[at : at + 7].tolist()
            assert example.targets.tolist() == ring[at + 1 : at + 8].tolist()
            assert example.weights.all()
    found = [row for (row,) in rows.in_order()]
    assert np.concatenate([e.tokens for e in found]).tolist() == stream[:-1].tolist()
    assert np.concatenate([e.targets for e in found]).tolist() == stream[1:].tolist()
    batch = text_loader([rows], [1.0], batch_size=3, seed=0).batch(0)
    assert (batch.segments_BT == 1).all()
    assert (batch.positions_BT == np.arange(7)).all()


def plan(corpus, seed=0, rows=3):
    return text_loader([Packed(corpus, 6)], [1.0], batch_size=rows, seed=seed).plan


def test_every_epoch_has_every_row_once_in_another_order(corpus):
    n = len(Packed(corpus, 6))
    served = plan(corpus)
    numbers = [row for step in range(2 * n) for row in served.step(step)]
    epochs = [numbers[i : i + n] for i in range(0, 6 * n, n)]
    for i, epoch in enumerate(epochs):
        assert {tuple(row[:2]) for row in epoch} == {(0, i)}
        assert sorted(row[2] for row in epoch) == list(range(n))
    assert epochs[0] != [[0, 0, row[2]] for row in epochs[1]]
    assert served.steps == -(-n // 3)


def test_a_step_depends_on_the_seed_and_its_number_alone(corpus):
    one, other = plan(corpus), plan(corpus)
    for step in range(30):
        one.step(step)
    assert one.step(31) == other.step(31)
    assert plan(corpus, seed=1).step(31) != one.step(31)
    loader = text_loader([Packed(corpus, 6)], [1.0], batch_size=3, seed=0)
    whole, part = loader.batch(5), loader.batch(5, [2, 0])
    assert np.array_equal(part.tokens_BT, whole.tokens_BT[[2, 0]])
    later = next(loader.iterate(5, 9))
    assert np.array_equal(later.tokens_BT, whole.tokens_BT)


def fake(tokens, name="fake"):
    tokens = np.asarray(tokens, np.uint16)
    return Corpus(name, tokens, np.array([0]), np.array([len(tokens)]), len(tokens))


def test_a_mixture_keeps_its_weights_in_every_cycle_and_reads_each_corpus_evenly():
    parts = [Concatenated(fake(range(n)), 5) for n in (50, 200, 35)]
    plan = text_loader(parts, [3, 1, 0.005], batch_size=10, seed=0).plan
    rows = [row for step in range(3 * CYCLE // 10) for row in plan.step(step)]
    for cycle in range(3):
        counts = np.bincount([row[0] for row in rows[cycle * CYCLE : (cycle + 1) * CYCLE]])
        assert counts.tolist() == [749, 250, 1]
    for k, part in enumerate(parts):
        own = [(epoch, row) for who, epoch, row in rows if who == k]
        seen = np.bincount([row for _, row in own], minlength=len(part))
        assert seen.max() - seen.min() <= 1
        assert own == sorted(own, key=lambda x: x[0])


def test_what_cannot_be_served_is_named(corpus):
    with pytest.raises(InputError, match=r"texts: \d+ tokens do not fill one row of 500"):
        text_loader([Packed(corpus, 500)], [1.0], batch_size=3, seed=0)
    small = fake(range(50), "small")
    with pytest.raises(InputError, match="small: its weight is below"):
        text_loader([Concatenated(fake(range(50)), 5), Concatenated(small, 5)], [1.0, 1e-5], batch_size=3, seed=0)
