"""Entities of running text: how labels of words are joined, for every scheme."""

import numpy as np
import pytest

from jaxllm.evals import tag as tagging

LABELS = ("O", "B-per", "E-per", "L-per", "S-loc", "U-loc", "PER", "I_PER", "LABEL_0")


@pytest.mark.parametrize(
    ("text", "tags", "wanted"),
    [
        (
            "via northam oldham with alda rex bo timm .",
            "O S-loc S-loc O B-per E-per B-per E-per O",
            [("loc", 4, 11), ("loc", 12, 18), ("per", 24, 32), ("per", 33, 40)],
        ),
        ("northam oldham, bo rex", "U-loc U-loc O B-per L-per", [("loc", 0, 7), ("loc", 8, 14), ("per", 16, 22)]),
        ("bo rex in oslo", "PER PER O PER", [("PER", 0, 6), ("PER", 10, 14)]),
        ("bo rex", "I_PER I_PER", [("PER", 0, 6)]),
        ("bo rex", "LABEL_0 LABEL_0", [("LABEL_0", 0, 6)]),
    ],
)
def test_words_are_joined_as_in_evaluation(monkeypatch, text, tags, wanted):
    numbers = np.array([LABELS.index(tag) for tag in tags.split()])
    tagged = ([LABELS[i] for i in numbers], np.linspace(0.2, 0.8, len(numbers)))
    monkeypatch.setattr(tagging, "label_words", lambda *_: [tagged])
    (found,) = tagging.tag_words(None, None, LABELS, [text], 16)
    assert [(e["entity_group"], e["start"], e["end"]) for e in found] == wanted
    assert [e["word"] for e in found] == [text[start:end] for _, start, end in wanted]
    if tags == "PER PER O PER":
        assert found[0]["score"] == pytest.approx(0.3)
