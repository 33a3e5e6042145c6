"""`python -m jaxllm tag` on files and standard input, and a CRF on its way through an export."""

import io
import json
import sys

import numpy as np
import pytest
from drawn import drawn

import jaxllm
from jaxllm import hf
from jaxllm.cli.tag import Config, check, main
from jaxllm.data.tagging import untagged
from jaxllm.evals.decoding import crf_of
from jaxllm.models.heads import describe_model
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.types import InputError

TEXTS = ["My name is Maarten", "Ada Lovelace met Alan in London .", ""]


@pytest.fixture(scope="module")
def crf(bert, tmp_path_factory):
    """The tagger of `bert` with a CRF."""
    opened = open_weights(str(bert), "tagger", crf=True)
    assert "crf initialised: not in the file" in opened.notes
    folder = tmp_path_factory.mktemp("models") / "crf"
    hf.export(folder, drawn(opened.spec, std=1.0), opened.config, opened.load_tokenizer(), source=opened)
    return folder


@pytest.fixture(scope="module")
def wide(bert, tmp_path_factory):
    """The tagger of `bert` with a context and a way to choose labels that its config.json says."""
    opened = open_weights(str(bert), "tagger", document_context=4, decode="viterbi")
    folder = tmp_path_factory.mktemp("models") / "wide"
    hf.export(folder, drawn(opened.spec, std=1.0), opened.config, opened.load_tokenizer(), source=opened)
    return folder


def test_the_rest_of_a_document_changes_what_is_found(wide, tmp_path):
    opened = open_weights(str(wide))
    assert (opened.config.document_context, opened.config.decode) == (4, "viterbi")
    scores = {}
    for name, text in {"apart": "London\n\nMy name is Ada\n\nParis\n", "one": "London\nMy name is Ada\nParis\n",
                       "last": "London\nMy name is Ada\n"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
        main(Config(str(wide), input=(str(tmp_path / name),), output=str(tmp_path / "out"), words=True))
        (line,) = [line for line in lines_of(tmp_path / "out") if line["text"].startswith("My")]
        scores[name] = [entity["score"] for entity in line["entities"]]
    main(Config(str(wide), ("My name is Ada",), output=str(tmp_path / "out"), json=True))
    alone = [entity["score"] for entity in lines_of(tmp_path / "out")[0]["entities"]]
    assert alone
    np.testing.assert_allclose(scores["apart"], alone, rtol=1e-5)
    assert len({*map(tuple, scores.values())}) == 3, "words on either side are seen"


def test_a_crf_and_a_named_decoding_hold_in_the_api_too(crf, wide, tmp_path):
    for folder in (crf, wide):
        main(Config(str(folder), (TEXTS[1],), output=str(tmp_path / "out"), json=True))
        (found,) = jaxllm.tag(jaxllm.load(str(folder)), [TEXTS[1]])
        assert found == lines_of(tmp_path / "out")[0]["entities"]
    chosen = [tuple(main_tags(crf, tmp_path, decode)) for decode in ("", "argmax", "viterbi")]
    assert len({*chosen}) > 1, "the CRF changes what is found"


def main_tags(folder, tmp_path, decode):
    (tmp_path / "w.conll").write_text("".join(f"{word} O\n" for word in TEXTS[1].split()))
    source = (str(tmp_path / "w.conll"),)
    main(Config(str(folder), input=source, output=str(tmp_path / "out"), decode=decode))
    return lines_of(tmp_path / "out")[0]["tags"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_files_standard_input_and_texts_give_the_same(bert, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    main(Config(str(bert), tuple(TEXTS), output=str(tmp_path / "texts.jsonl"), json=True))
    main(Config(str(bert), input=(str(tmp_path / "a.txt"),), output=str(tmp_path / "files.jsonl")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.txt").read_bytes())))
    main(Config(str(bert), output=str(tmp_path / "piped.jsonl")))
    found = [lines_of(tmp_path / f"{name}.jsonl") for name in ("texts", "files", "piped")]
    assert found[0] == found[1] == found[2]
    assert [line["text"] for line in found[0]] == TEXTS
    assert any(line["entities"] for line in found[0])


def test_columns_come_back_with_a_tag_more(bert, tmp_path):
    text = "# newdoc\n1\tMy\tX\n2\tname\tY\n\n-DOCSTART-\n\n1\tAda\tX\n1-2\tAdaLo\t_\n2\tLovelace\tX\n"
    (tmp_path / "in.conll").write_text(text)
    out = tmp_path / "out.conll"
    main(Config(str(bert), input=(str(tmp_path / "in.conll"),), output=str(out), output_format="conll"))
    before, after = text.splitlines(), out.read_text().splitlines()
    tagged = {i for i, line in enumerate(before) if line[:1].isdigit() and "-2" not in line}
    for i, line in enumerate(before):
        columns, _, last = after[i].rpartition("\t")
        assert (columns, last in ("O", "B-person", "I-person")) == (line, True) if i in tagged else after[i] == line
    main(Config(str(bert), input=(str(tmp_path / "in.conll"),), output=str(out)))
    assert [line["tokens"] for line in lines_of(out)] == [["My", "name"], ["Ada", "Lovelace"]]


def test_a_crf_is_exported_read_again_and_decoded(crf, bert, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    _, info = transformers.AutoModelForTokenClassification.from_pretrained(crf, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    from jaxllm.distributed.mesh import make_mesh

    opened = open_weights(str(crf), "tagger")
    labels = opened.config.labels
    chain = crf_of(load_params(opened.spec, make_mesh()))
    assert np.any(chain.pairs)
    other = open_weights(str(crf), "tagger", labels=labels[::-1])
    turned = crf_of(load_params(other.spec, make_mesh()))
    np.testing.assert_array_equal(turned.pairs, chain.pairs[::-1, ::-1])
    np.testing.assert_array_equal(turned.start, chain.start[::-1])
    without = open_weights(str(crf), "tagger", labels=labels, crf=False)
    assert "crf.pairs" not in without.spec.graphdef.abstract
    assert any("crf.pairs" in note for note in without.notes)
    assert "crf.pairs" not in describe_model(open_weights(str(bert), "tagger").config).graphdef.abstract
    found = {}
    for decode in ("", "argmax", "viterbi"):
        main(Config(str(crf), tuple(TEXTS), json=True, decode=decode, output=str(tmp_path / "out.jsonl")))
        found[decode] = lines_of(tmp_path / "out.jsonl")
    assert found[""] != found["argmax"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"output_format": "conll", "aggregation": "max"}, "--output-format conll has a tag for each word"),
        ({"decode": "viterbi", "aggregation": "first"}, "--decode viterbi is of whole words"),
        ({"decode": "beam"}, "--decode beam: give one of argmax, viterbi"),
        ({"text": ("a",), "input": ("b",)}, "give one of them"),
        ({"json": True, "output_format": "conll"}, "--json means"),
    ],
)
def test_flags_that_do_not_go_together(flags, said):
    with pytest.raises(InputError, match=said):
        check(Config("model", **flags))


def test_bad_files_are_one_line(bert, tmp_path):
    with pytest.raises(InputError, match="--input nowhere: no such file"):
        main(Config(str(bert), input=("nowhere",)))
    with pytest.raises(InputError, match="f, line 2: not UTF-8"):
        list(untagged.read_lines("f", [b"a\n", b"caf\xe9\n"]))
    with pytest.raises(InputError, match="f, line 3: not 2 columns"):
        list(untagged.read_lines("f", [b"a\tO\n", b"b\tO\n", b"c\n"], "conll"))
