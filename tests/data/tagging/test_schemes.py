import random

import pytest
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE1, IOE2, Entities

from jaxllm.data.report import Report
from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tagging.schemes import SCHEMES, entities, entity_types, of_scheme, parse, recognise, score
from jaxllm.types import InputError

# One sentence, a two-word x, a one-word x beside it, O, a three-word y: spelt by each scheme.
SPELT = {
    "BMES": "B-x E-x S-x O B-y M-y E-y",
    "IOB1": "I-x I-x B-x O I-y I-y I-y",
    "IOB2": "B-x I-x B-x O B-y I-y I-y",
    "IOE1": "I-x E-x I-x O I-y I-y I-y",
    "IOE2": "I-x E-x E-x O I-y I-y E-y",
    "IOBES": "B-x E-x S-x O B-y I-y E-y",
    "BILOU": "B-x L-x U-x O B-y I-y L-y",
}


def tagged(*texts):
    return [Sentence(list(text.split()), text.split(), f"f, row {i + 1}") for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", SPELT)
def test_recognised_and_scored(name):
    assert recognise(tagged("O O", SPELT[name])) == name
    true = [SPELT[name].split(), ["O"]]
    perfect = score(true, true, name, ["x", "y", "z"])
    assert perfect["f1"] == perfect["precision"] == perfect["recall"] == perfect["accuracy"] == 1
    assert [perfect[f"{kind}/support"] for kind in "xyz"] == [2, 1, 0]
    # y is missed: two of three entities found, nothing false.
    missed = score(true, [true[0][:4] + ["O"] * 3, ["O"]], name, ["x", "y", "z"])
    assert (missed["precision"], missed["recall"]) == (1, pytest.approx(2 / 3))
    assert missed["f1"] == pytest.approx(0.8)
    assert missed["accuracy"] == pytest.approx(5 / 8)
    assert [missed[f"y/{metric}"] for metric in ("f1", "precision", "recall", "support")] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B-x O B-y I-y", "IOB2"),
        ("I-x I-x O I-y", "IOB1"),
        ("I-x I-y B-y O", "IOB1"),
        ("B-x O I-x O B-x", "IOB2"),  # one slip
        ("E-x O I-y E-y", "IOE2"),
        ("O O", "IOB2"),
        ("B-x E-x O", "IOBES"),
        ("S-x O", "IOBES"),
        ("U-x O", "BILOU"),
        ("B I O B", "IOB2"),
        ("B_x I_x O B_y", "IOB2"),
        ("x O y y", "IO"),
        ("LABEL_1 O", "IO"),
        ("B M E S", "BMES"),
        ("", "IOB2"),  # a sentence without words
    ],
)
def test_recognised_from_few_tags(text, name):
    assert recognise(tagged(text)) == name


@pytest.mark.parametrize(
    ("name", "wrong"), [("IOB2", "B-x I-x I-y O B-y I-y O"), ("BILOU", "B-x I-x U-x O I-y L-y U-z")]
)
def test_scores_of_tags_out_of_order_are_those_of_seqeval(name, wrong):
    true, predicted = [SPELT[name].split(), []], [wrong.split(), []]
    mode = {"mode": "strict", "scheme": BILOU} if name == "BILOU" else {}
    report = classification_report(true, predicted, output_dict=True, zero_division=0, **mode)
    ours = score(true, predicted, name, ["x", "y"])
    for kind, prefix in (("x", "x/"), ("y", "y/"), ("micro avg", "")):
        for theirs, metric in (("f1-score", "f1"), ("precision", "precision"), ("recall", "recall")):
            assert ours[prefix + metric] == pytest.approx(report[kind][theirs], abs=1e-12)
    assert 0 < ours["f1"] < 1


def test_nothing_to_find():
    for name in ("IOB2", "BILOU"):
        numbers = score([["O", "O"]], [["O", "O"]], name, ["x"])
        assert (numbers["f1"], numbers["accuracy"], numbers["x/f1"]) == (0, 1, 0)
    assert score([["O"]], [["I-x"]], "BILOU", [])["precision"] == 0


@pytest.mark.parametrize("tag", ["S-x", "x", "B-", "O-x", "b-x", "", "B_x"])
def test_a_tag_not_of_the_scheme(tag):
    sentences = tagged("B-x I-x O", "O B-x")
    sentences[1].tags[1] = tag
    with pytest.raises(InputError, match=r"f, row 2, word 2: tag '.*' is not of IOB2, which has O, B-type, I-type; .*"):
        of_scheme(sentences, "IOB2", Report(max_bad_rows=0))
    report = Report(max_bad_rows=0.5, total=2)
    assert of_scheme(sentences, "IOB2", report) == sentences[:1]
    assert report.dropped == {"with a tag not of IOB2": ["f, row 2"]}


@pytest.mark.parametrize(
    ("text", "word", "tag"),
    [
        ("B-PER 0 0", 2, "0"),
        ("PER 0 O", 2, "0"),
        ("1 0 0", 2, "0"),
        ("1 2 O", 1, "1"),
        ("b-per i-per o O", 3, "o"),
        ("b-per i-per O", 1, "b-per"),
        ("B-PER o O", 2, "o"),
        ("PER-B PER-I O", 1, "PER-B"),
        ("LOC_S O", 1, "LOC_S"),
    ],
)
def test_tags_in_another_spelling_are_no_scheme(text, word, tag):
    with pytest.raises(InputError, match=rf"f, row 2, word {word}: tag '{tag}' is (not of IOB2|of no scheme)"):
        of_scheme(tagged("O", text), recognise(tagged("O", text)), Report(total=2))


def test_types_that_look_like_letters_need_a_word_or_others_beside_them():
    assert recognise(tagged("e-mail O"), "IO") == "IO"
    assert recognise(tagged("e-mail O PER vitamin-B")) == "IO"


def test_unknown_scheme():
    with pytest.raises(InputError, match=r"'IOB3' is unknown; choose of IOB1, IOB2"):
        recognise([], "IOB3")


def test_entity_types_keep_their_hyphens():
    assert parse("B-creative-work") == ("B", "creative-work")
    assert entity_types(["O", "I-x", "B-x", "B-creative-work", "B"]) == ["_", "creative-work", "x"]


STRICT = {"IOB1": IOB1, "IOB2": IOB2, "IOE1": IOE1, "IOE2": IOE2, "IOBES": IOBES, "BILOU": BILOU}


def of_seqeval(tags, scheme):
    found = Entities([list(tags)], scheme).entities[0]
    return [entity.to_tuple()[1:] for entity in found]


@pytest.mark.parametrize("name", STRICT)
def test_entities_are_those_of_seqeval(name):
    draw = random.Random(name)
    vocabulary = ["O", *(f"{letter}-{kind}" for letter in SCHEMES[name] for kind in "xy")]
    valid = 0
    for _ in range(3000):
        tags = draw.choices(vocabulary, k=draw.randint(1, 6))
        strict = of_seqeval(tags, STRICT[name])
        if name == "BILOU":
            assert entities(tags, strict=True) == strict, tags
        else:
            assert entities(tags) == [(kind, a, b + 1) for kind, a, b in get_entities(tags)], tags
        if sum(end - start for _, start, end in strict) == sum(tag != "O" for tag in tags):
            valid += 1
            assert entities(tags) == strict, tags
    assert valid > 100


def test_nothing_continues_after_an_entity_that_has_ended():
    assert entities(["S-x", "S-x", "I-x"]) == [("x", 0, 1), ("x", 1, 2), ("x", 2, 3)]
    assert entities(["U-x", "L-x"]) == [("x", 0, 1), ("x", 1, 2)]
    assert entities(["B-x", "E-x", "B-x", "L-x"]) == [("x", 0, 2), ("x", 2, 4)]
    assert entities(["E-x", "E-x"]) == [("x", 0, 1), ("x", 1, 2)]
    assert entities(["B-x", "M-x", "E-x", "M-x"]) == [("x", 0, 3), ("x", 3, 4)]


def test_labels_without_a_letter_and_with_an_underscore():
    assert entities(["PER", "PER", "O", "LOC"]) == [("PER", 0, 2), ("LOC", 3, 4)]
    assert entities(["B_PER", "I_PER", "I_LOC"]) == [("PER", 0, 2), ("LOC", 2, 3)]
    assert entities(["LABEL_0", "LABEL_1", "LABEL_1"]) == [("LABEL_0", 0, 1), ("LABEL_1", 1, 3)]
    assert entities(["creative-work", "O"]) == [("creative-work", 0, 1)]
    assert entities([]) == []
    numbers = score([["PER", "PER", "O"]], [["PER", "PER", "LOC"]], "IO", ["PER"])
    assert (numbers["PER/f1"], numbers["precision"]) == (1, 0.5)


def test_other_names_of_schemes():
    assert [recognise(tagged("O"), name) for name in ("BIO", "BIOES", "BILUO")] == ["IOB2", "IOBES", "BILOU"]
