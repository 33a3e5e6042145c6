"""Spans of characters, as annotation tools export them."""

import json

import pytest

from jaxllm.data.report import Report
from jaxllm.data.tagging.examples import sentences, usable_sentences
from jaxllm.data.tagging.load import load_tagged
from jaxllm.data.tagging.spans import WORD
from jaxllm.types import InputError

TEXT = "Ada Lovelace's code, in São Paulo."
SPANS = [(0, 12, "PER"), (24, 33, "LOC")]
NAMED = [{"start": a, "end": b, "label": label} for a, b, label in SPANS]
LISTED = [{"start": a, "end": b, "text": TEXT[a:b], "labels": [label]} for a, b, label in SPANS]
ROWS = {
    "doccano": {"id": 1, "text": TEXT, "label": [list(span) for span in SPANS]},
    "doccano's relations": {"text": TEXT, "relations": [], "entities": [
        {"id": i, "start_offset": a, "end_offset": b, "label": label} for i, (a, b, label) in enumerate(SPANS)]},
    "Label Studio": {"id": 1, "data": {"text": TEXT}, "annotations": [
        {"result": [{"type": "labels", "value": value} for value in LISTED]}]},
    "Label Studio, short": {"id": 1, "text": TEXT, "label": LISTED},
    "spaCy's to_json": {"text": TEXT, "ents": NAMED, "tokens": [{"id": 0, "start": 0, "end": 3}]},
    "spaCy's pairs": [TEXT, {"entities": [list(span) for span in SPANS]}],
    "Prodigy": {"text": TEXT, "spans": NAMED, "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}]},
    "named": {"text": TEXT, "entities": NAMED},
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_each_tools_rows_are_words_and_tags(row, suffix, tmp_path):
    path = tmp_path / f"train{suffix}"
    path.write_text(json.dumps([row] if suffix == ".json" else row), encoding="utf-8")
    (found,) = sentences(load_tagged(str(tmp_path))["train"])
    assert found.words == WORD.findall(TEXT)
    assert " ".join(found.tags) == "B-PER I-PER O O O O O B-LOC I-LOC O"
    assert found.where.startswith(str(path))


BAD = {
    "with spans that overlap": ([[0, 12, "PER"], [4, 12, "PER"]], "PER 0-12 and PER 4-12 overlap"),
    "with a span that cuts a word": ([[0, 6, "PER"]], "PER 0-6 cuts the word 'Lovelace'"),
    "with a span outside the text": ([[30, 99, "LOC"]], "LOC 30-99 lies outside the text of 34 characters"),
    "with a span without words": ([[3, 4, "PER"]], "PER 3-4 holds no word"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_spans_are_bad_rows(kind, tmp_path):
    spans, message = BAD[kind]
    path = tmp_path / "train.jsonl"
    good = json.dumps({"text": TEXT, "entities": NAMED}) + "\n"
    path.write_text(good * 30 + json.dumps({"text": TEXT, "entities": spans}) + "\n")
    report = Report()
    assert len(usable_sentences(load_tagged(str(path))["train"], report)) == 30
    assert report.dropped == {kind: [f"{path}, line 31"]}
    with pytest.raises(InputError, match=rf"train\.jsonl, line 31: the spans? {message}"):
        usable_sentences(load_tagged(str(path))["train"], Report(max_bad_rows=0.0))


@pytest.mark.parametrize(
    "span", [[0, 3], [0, 3, 1], {"start": 0, "end": "3", "label": "PER"}, "PER", [0.0, 3.0, "PER"]]
)
def test_what_is_no_span_stops_the_run(span, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": TEXT, "entities": [span]}) + "\n")
    with pytest.raises(InputError, match=r"line 1: .* is no span; give start, end and one label"):
        sentences(load_tagged(str(path))["train"])
