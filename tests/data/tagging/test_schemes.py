import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import BILOU

from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tagging.schemes import SCHEMES, entity_types, parse, recognise, score
from jaxllm.types import InputError

# One sentence, a two-word x, a one-word x beside it, O, a three-word y: spelt by each scheme.
SPELT = {
    "IOB1": "I-x I-x B-x O I-y I-y I-y",
    "IOB2": "B-x I-x B-x O B-y I-y I-y",
    "IOE1": "I-x E-x I-x O I-y I-y I-y",
    "IOE2": "I-x E-x E-x O I-y I-y E-y",
    "IOBES": "B-x E-x S-x O B-y I-y E-y",
    "BILOU": "B-x L-x U-x O B-y I-y L-y",
}


def tagged(*texts):
    return [Sentence(list(text.split()), text.split(), f"f, row {i + 1}") for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", SCHEMES)
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
    with pytest.raises(InputError, match=r"f, row 2, word 2: tag '.*' is not of IOB2"):
        recognise(sentences, "IOB2")


def test_unknown_scheme():
    with pytest.raises(InputError, match=r"'IOB3' is unknown; choose of IOB1, IOB2"):
        recognise([], "IOB3")


def test_entity_types_keep_their_hyphens():
    assert parse("B-creative-work") == ("B", "creative-work")
    assert entity_types(["O", "I-x", "B-x", "B-creative-work", "B"]) == ["_", "creative-work", "x"]
