import time

import numpy as np
import pytest
from data_rows import rows_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxllm.data.report import Report
from jaxllm.data.sources import load
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging import windows
from jaxllm.data.tagging.examples import Sentence
from jaxllm.types import InputError

TEXT = "Anna Li flew to New York on Monday , unhappily un affordable O'Neil says #tags 100% äö"
LABELS = ("O", "B-per", "I-per", "B-loc")


@pytest.fixture(scope="module")
def bert():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator([TEXT] * 2, trainers.WordPieceTrainer(vocab_size=70, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **dict(zip(names, special, strict=True))
    )


def byte_level(add_prefix_space: bool):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([f" {TEXT}"] * 2, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=add_prefix_space)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def rows(*given, names=None):
    return rows_of(*given, name="f", lines=False, class_names={"ner_tags": names} if names else {})


def fault(act, *args) -> str:
    with pytest.raises(InputError) as caught:
        act(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sentences():
    named = rows({"tokens": ["a", "b"], "tags": ["O", "B-x"]}, {"tokens": ["c"]}, {"tokens": [], "labels": []})
    assert ner.sentences(named) == [
        Sentence(["a", "b"], ["O", "B-x"], "f, row 1"),
        Sentence(["c"], None, "f, row 2"),
        Sentence([], [], "f, row 3"),
    ]
    numbered = ner.sentences(rows({"tokens": ["a", "b"], "ner_tags": [1, 0]}, names=["O", "B-x"]))
    assert numbered[0].tags == ["B-x", "O"]
    conll2003 = {"tokens": ["a"], "pos_tags": ["NNP"], "chunk_tags": ["B-NP"], "tags": ["O"], "ner_tags": ["B-x"]}
    assert ner.sentences(rows(conll2003))[0].tags == ["B-x"]
    assert ner.label_set([*numbered, Sentence(["a", "b"], ["I-x", "A"], "f")]) == ("O", "A", "B-x", "I-x")


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, None, "f, row 2: 2 ner_tags for 1 tokens"),
        ({"tokens": ["a", "b"], "labels": ["O"]}, None, "f, row 2: 1 labels for 2 tokens"),
        ({"tokens": ["a", "b"], "ner_tags": [0, 1]}, None, "f, row 2, word 1: ner_tags are numbers"),
        (
            {"tokens": ["a", "b"], "ner_tags": [0, 2]},
            ["O", "B-x"],
            "f, row 2, word 2: ner_tags hold 2, and the classes",
        ),
        ({"tokens": ["a", "b"], "ner_tags": ["O", None]}, None, "f, row 2, word 2: no tag (null) in ner_tags"),
        ({"tokens": ["a", "b"], "ner_tags": [0, None]}, ["O"], "f, row 2, word 2: no tag (null) in ner_tags"),
        ({"tokens": ["a", None], "ner_tags": ["O", "O"]}, None, "f, row 2, word 2: no word (null)"),
        ({"tokens": ["a", "b"], "ner_tags": ["O", 1]}, ["O"], "f, row 2, word 1: ner_tags hold 'O'"),
        ({"tokens": ["a", "b"], "ner_tags": "O O"}, None, "no list for 2 tokens"),
        ({"tokens": "a b"}, None, "f, row 2: 'tokens' must be a list of strings"),
        ({"text": "a", "id": 3}, None, "f, row 2: no 'tokens' among text, id"),
        ({"text": "a", "words": ["a"]}, None, "no 'tokens' among text, words"),
    ],
)
def test_bad_rows_are_named(row, names, message):
    assert message in fault(
        ner.sentences, rows({"tokens": ["a"], "ner_tags": [0] if names else ["O"]}, row, names=names)
    )


def test_rows_bad_in_content_are_left_out_up_to_a_share():
    good = [{"tokens": ["a"], "ner_tags": ["O"]}] * 37
    bad = [
        {"tokens": [], "ner_tags": []},
        {"tokens": ["a", "b"], "ner_tags": ["O", None]},
        {"tokens": ["a"], "ner_tags": ["O", "O"]},
    ]
    report = Report(max_bad_rows=0.1)
    assert len(ner.usable_sentences(rows(*good, *bad), report)) == report.kept == 37
    assert report.dropped == {
        "without words": ["f, row 38"],
        "with a tag that is null": ["f, row 39"],
        "with another number of tags than of words": ["f, row 40"],
    }
    assert fault(ner.usable_sentences, rows(*good, *bad), Report()) == (
        "f, row 38: no words; leave the row out (3 of 40 rows are bad, above --max-bad-rows 0.05: "
        "1 without words: f, row 38; 1 with a tag that is null: f, row 39; "
        "1 with another number of tags than of words: f, row 40)"
    )
    assert "f, row 39, word 2: no tag" in fault(
        ner.usable_sentences, rows(*good, good[0], bad[1]), Report(max_bad_rows=0)
    )
    assert "no 'tokens' among text" in fault(ner.usable_sentences, rows(*good, {"text": "a"}), Report(max_bad_rows=0.9))


def test_labels_unseen_in_training_are_bad_rows():
    found = [Sentence(["a", "b"], ["O", "B-y"], "f, row 1"), *[Sentence(["a"], ["O"], "f, row 2")] * 30]
    report = Report(total=31)
    assert ner.without_unseen(found, LABELS, report) == found[1:]
    assert report.dropped == {"with a label unseen in training": ["f, row 1"]}
    assert "f, row 1, word 2: label 'B-y' is unseen in training" in fault(
        ner.without_unseen, found, LABELS, Report(max_bad_rows=0, total=31)
    )


def test_labels_unseen_or_absent(bert):
    assert "f, row 9, word 2: label 'B-y' is unseen" in fault(
        ner.encode, [Sentence(["a", "b"], ["O", "B-y"], "f, row 9")], bert, LABELS, 16
    )
    assert "f, row 9: no tags" in fault(ner.label_set, [Sentence(["a"], None, "f, row 9")])
    assert "--max-length 2 leaves no room beside 2" in fault(ner.encode, [Sentence(["a"], None, "f")], bert, LABELS, 2)


def test_encode_labels_first_subwords(bert):
    words = ["Anna", "\u200d", "unaffordable", "zzz☃"]  # nothing is left of the second, the last is unknown
    encoded = ner.encode([Sentence(words, ["B-per", "I-per", "B-loc", "O"], "f")], bert, LABELS, 64)
    (example,) = encoded.examples
    subwords = [bert.tokenize(word) for word in words]
    assert subwords[1] == []
    assert len(subwords[2]) > 1
    tokens = bert.convert_ids_to_tokens(example.tokens.tolist())
    assert tokens == ["[CLS]", *subwords[0], *subwords[2], "[UNK]", "[SEP]"]
    third, last = 1 + len(subwords[0]), len(tokens) - 2
    np.testing.assert_array_equal(np.flatnonzero(example.weights), [1, third, last])
    assert example.targets[[1, third, last]].tolist() == [1, 3, 0]
    assert example.targets.sum() == 4
    assert [x.dtype for x in (example.tokens, example.targets, example.weights)] == [np.int32, np.int32, np.float32]
    whole = ner.stitch(encoded, [np.arange(1, len(tokens) + 1)])
    assert [array.tolist() for array in whole] == [[2, 0, third + 1, last + 1]]


def test_words_without_tokens_and_words_with_a_space(bert):
    words = ["\u200b", "Anna", "", " ", "New York", "Li"]
    encoded = ner.encode([Sentence(words, ["B-per", "B-per", "O", "O", "B-loc", "I-per"], "f")], bert, LABELS, 64)
    (example,) = encoded.examples
    assert bert.decode(example.tokens[1:-1]) == "Anna New York Li"
    assert [LABELS[i] for i in example.targets[example.weights > 0]] == ["B-per", "B-loc", "I-per"]
    (answers,) = ner.stitch(encoded, [np.where(example.weights > 0, 3, 1)])
    assert answers.tolist() == [0, 3, 0, 0, 3, 3]


def test_sentences_of_nothing(bert):
    encoded = ner.encode(
        [Sentence([], [], "f"), Sentence(["\u200d"], ["O"], "f"), Sentence(["Li"], None, "f")], bert, LABELS, 8
    )
    assert encoded.sentence == [2]
    assert not encoded.examples[0].weights.any()
    assert [x.tolist() for x in ner.stitch(encoded, [np.ones(len(encoded.examples[0].tokens))])] == [[], [0], [1]]
    assert ner.encode([], bert, LABELS, 8).examples == []


def test_words_of_byte_level_tokenizers_carry_their_space():
    with_space, without = byte_level(True), byte_level(False)
    sentence = Sentence(TEXT.split(), None, "f")
    (expected,) = ner.encode([sentence], with_space, LABELS, 256).examples
    encoded = ner.encode([sentence], without, LABELS, 256)
    np.testing.assert_array_equal(encoded.examples[0].tokens, expected.tokens)
    # In running text every word but the first has a space before it.
    running = without(TEXT)["input_ids"]
    assert encoded.examples[0].tokens[-20:].tolist() == running[-20:]
    assert encoded.words[0].tolist() == list(range(len(sentence.words)))


@pytest.mark.parametrize("max_length", [3, 4, 9, 16, 40])
def test_windows_answer_for_each_word_once_where_context_is_most(bert, max_length):
    words = (TEXT + " unaffordablyunhappily ").split() * 6
    tags = [LABELS[i % 4] for i in range(len(words))]
    encoded = ner.encode([Sentence(["Li"], ["O"], "f"), Sentence(words, tags, "f")], bert, LABELS, max_length)
    whole = ner.encode([Sentence(words, tags, "f")], bert, LABELS, 10_000)
    room = max_length - 2
    assert encoded.sentence[0] == 0
    assert set(encoded.sentence[1:]) == {1}
    pieces = [bert(word, add_special_tokens=False)["input_ids"][:room] for word in words]
    body = [token for piece in pieces for token in piece]
    at = np.cumsum([0, *map(len, pieces)])
    edges = set(at.tolist())
    answered = np.concatenate(encoded.words[1:])
    assert sorted(answered.tolist()) == whole.words[0].tolist()
    spans = []
    for example, mine, positions in list(zip(encoded.examples, encoded.words, encoded.positions, strict=True))[1:]:
        assert len(example.tokens) <= max_length
        assert (example.tokens[0], example.tokens[-1]) == (2, 3)
        low = int(at[mine[0]] - (positions[0] - 1))
        high = low + len(example.tokens) - 2
        assert example.tokens[1:-1].tolist() == body[low:high]
        assert {low, high} <= edges
        np.testing.assert_array_equal(positions, at[mine] - low + 1)
        np.testing.assert_array_equal(np.flatnonzero(example.weights), positions)
        assert example.targets[positions].tolist() == [LABELS.index(tags[word]) for word in mine]
        spans.append((low, high, mine))

    def context(word, low, high):
        return min(at[word] - low, high - at[word + 1])

    for low, high, mine in spans:
        for word in mine:
            holding = [context(word, a, b) for a, b, _ in spans if a <= at[word] and at[word + 1] <= b]
            assert context(word, low, high) == max(holding)


def test_windows_leave_context_and_waste_little():
    starts = np.cumsum([0, *np.random.default_rng(0).integers(1, 4, 999)])
    total = int(starts[-1]) + 2
    spans = list(windows.cut(starts, total, 64))
    ends = np.append(starts[1:], total)
    for low, high, units in spans:
        assert 64 - 3 < high - low <= 64  # units are at most 3 tokens
        inside = units[(starts[units] > 64) & (ends[units] < total - 64)]
        assert (np.minimum(starts[inside] - low, high - ends[inside]) >= 64 // 4 - 3).all()
    np.testing.assert_array_equal(np.concatenate([units for _, _, units in spans]), np.arange(len(starts)))
    assert len(spans) <= 2.3 * total / 64


def test_stitch_puts_arrays_where_the_words_are(bert):
    words = TEXT.split() * 5
    encoded = ner.encode([Sentence(words, None, "f"), Sentence(["Li"], None, "f")], bert, LABELS, 12)
    assert len(encoded.examples) > 5
    stitched = ner.stitch(encoded, [np.stack([x.tokens, -x.tokens], -1) for x in encoded.examples])
    firsts = [bert(word, add_special_tokens=False)["input_ids"][0] for word in words]
    np.testing.assert_array_equal(stitched[0], np.stack([firsts, np.negative(firsts)], -1))
    assert stitched[1].shape == (1, 2)


def test_slow_tokenizers_are_refused():
    assert "give a fast tokenizer" in fault(ner.encode, [], object(), LABELS, 16)


def test_wnut_is_encoded_quickly_and_as_transformers_does(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "models" / "all-MiniLM-L6-v2")
    sentences = ner.sentences(load(assets / "data" / "wnut17")["train"])
    labels = ner.label_set(sentences)
    assert len(labels) == 13
    start = time.perf_counter()
    encoded = ner.encode(sentences, tokenizer, labels, 128)
    seconds = time.perf_counter() - start
    assert seconds < 4  # about half a second on a machine of its own
    assert len(encoded.examples) >= len(sentences)
    assert sum(int(example.weights.sum()) for example in encoded.examples) == sum(map(len, encoded.words))
    for i in (0, 17, 1003):
        theirs = tokenizer(sentences[i].words, is_split_into_words=True)
        example = encoded.examples[encoded.sentence.index(i)]
        assert example.tokens.tolist() == theirs["input_ids"]
        ids = theirs.word_ids()
        first = [j for j in range(len(ids)) if ids[j] is not None and ids[j] != ids[j - 1]]
        np.testing.assert_array_equal(np.flatnonzero(example.weights), first)


def test_long_raw_text_is_answered_for_token_by_token(bert):
    text = " ".join([TEXT] * 4)
    encoded, (tokens,) = ner.encode_text([text], bert, 20)
    (whole,) = ner.encode_text([text], bert, 10_000)[0].examples
    assert max(len(example.tokens) for example in encoded.examples) == 20
    (stitched,) = ner.stitch(encoded, [example.tokens for example in encoded.examples])
    np.testing.assert_array_equal(stitched, whole.tokens[1:-1])
    np.testing.assert_array_equal(tokens.ids, stitched)
    np.testing.assert_array_equal(tokens.offsets, bert(text, return_offsets_mapping=True)["offset_mapping"][1:-1])


def test_half_of_a_character_is_a_bad_row():
    good = [{"tokens": ["a"], "ner_tags": ["O"]}] * 30
    report = Report()
    assert len(ner.usable_sentences(rows(*good, {"tokens": ["\ud83d"], "ner_tags": ["O"]}), report)) == 30
    assert report.dropped == {"a lone surrogate in words": ["f, row 31"]}
