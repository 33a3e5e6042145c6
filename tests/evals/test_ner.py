import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from seqeval.metrics import classification_report

from jaxllm.data.packing import Example, Location, collate
from jaxllm.data.tagging.examples import Sentence, Windows
from jaxllm.evals import ner
from jaxllm.types import InputError

LABELS = ("O", "B-x", "I-x", "B-y")
# Token t of the vocabulary is predicted as label t % 4, with more or less certainty.
LOGITS = np.where(np.arange(16)[:, None] % 4 == np.arange(4), np.linspace(0.5, 4, 16)[:, None], 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Model:
    """A head that reads its logits off the token; `map` as models have it, asking two batches ahead."""

    logits_VC: jax.Array

    def hidden(self, batch, key=None):
        return jax.nn.one_hot(batch.tokens_BT, len(self.logits_VC)), {}

    def head(self, hidden):
        return hidden @ self.logits_VC

    def map(self, fn, batches):
        run = jax.jit(lambda batch: fn(self, batch))
        waiting = []
        for batch in batches:
            waiting.append(run(jax.tree.map(jnp.asarray, batch)))
            if len(waiting) == 2:
                yield jax.tree.map(np.asarray, waiting.pop(0))
        yield from (jax.tree.map(np.asarray, out) for out in waiting)


def example(tokens, targets, weights):
    return Example(np.asarray(tokens, np.int32), np.asarray(targets, np.int32), np.asarray(weights, np.float32))


# Sentence 0 is two windows; its word 2 has no tokens. Sentence 1 is one window, sentence 2 has none.
EXAMPLES = [
    example([12, 5, 6, 0], [0, 1, 2, 0], [0, 1, 1, 0]),
    example([12, 6, 7, 0], [0, 0, 1, 0], [0, 0, 1, 0]),
    example([12, 9, 0], [0, 3, 0], [0, 1, 0]),
]
WINDOWS = Windows(
    EXAMPLES,
    [0, 0, 1],
    [np.array([0, 1]), np.array([3]), np.array([0])],
    [np.array([1, 2]), np.array([2]), np.array([1])],
    [4, 1, 0],
)
SENTENCES = [
    Sentence(["a", "b", "c", "d"], ["B-x", "I-x", "O", "B-x"], "f, row 1"),
    Sentence(["e"], ["B-y"], "f, row 2"),
    Sentence([], [], "f, row 3"),
]
PREDICTED = [["B-x", "I-x", "O", "B-y"], ["B-x"], []]


def batches():
    """The first and last example packed in a row of the second batch, the other alone in the first."""
    yield collate([[EXAMPLES[1]]], 8, 2), [Location(1, 0, 0)]
    yield collate([[], [EXAMPLES[2], EXAMPLES[0]]], 8, 2), [Location(2, 1, 0), Location(0, 1, 3)]


def test_scores_of_whole_sentences(tmp_path):
    path = tmp_path / "run" / "predictions.jsonl"
    evaluate = ner.evaluator(WINDOWS, SENTENCES, LABELS, "IOB2", batches(), predictions=path)
    numbers = evaluate(Model(jnp.asarray(LOGITS)))

    report = classification_report([s.tags for s in SENTENCES], PREDICTED, output_dict=True, zero_division=0)
    expected = {"loss": numbers["loss"], "accuracy": 3 / 5, "strict_f1": 1 / 3, "lenient_f1": 1 / 3}
    for name, prefix in (("micro avg", ""), ("x", "x/"), ("y", "y/")):
        values = report[name]
        expected |= {prefix + m: values[m] for m in ("precision", "recall")} | {prefix + "f1": values["f1-score"]}
        if prefix:
            expected[prefix + "support"] = values["support"]
    assert numbers == pytest.approx(expected)
    assert numbers["f1"] == pytest.approx(1 / 3)  # one of three found, three predicted

    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    asked = [(5, 1), (6, 2), (7, 1), (9, 3)]  # (token, target) where the weight is 1
    assert numbers["loss"] == pytest.approx(-np.mean([np.log(probabilities[at]) for at in asked]), rel=1e-5)

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["predicted"] for line in lines] == PREDICTED
    assert [line["tokens"] for line in lines] == [s.words for s in SENTENCES]
    assert [line["tags"] for line in lines] == [s.tags for s in SENTENCES]
    sure = [probabilities[t].max() for t in (5, 6, 7, 9)]
    assert lines[0]["scores"] == pytest.approx([sure[0], sure[1], 0, sure[2]], abs=1e-5)
    assert lines[1]["scores"] == pytest.approx([sure[3]], abs=1e-5)
    assert sorted(file.name for file in path.parent.iterdir()) == ["predictions.jsonl", "report.md"]

    console = Console(width=80)
    with console.capture() as shown:
        console.print(ner.table(numbers))
    rows = [line.replace("│", " ").split() for line in shown.get().splitlines()]
    assert ["x", "0.5000", "0.5000", "0.5000", "2"] in rows
    assert ["all", "0.3333", "0.3333", "0.3333", "3"] in rows


def test_all_windows_are_needed():
    evaluate = ner.evaluator(WINDOWS, SENTENCES, LABELS, "IOB2", list(batches())[:1])
    with pytest.raises(ValueError, match="lack 2 of 3 windows"):
        evaluate(Model(jnp.asarray(LOGITS)))


def test_untagged_sentences_cannot_be_scored():
    with pytest.raises(InputError, match="f, row 9: no tags"):
        ner.evaluator(WINDOWS, [*SENTENCES, Sentence(["a"], None, "f, row 9")], LABELS, "IOB2", [])
