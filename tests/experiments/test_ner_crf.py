"""The NER script with a CRF, and its tags by the scheme: trained on eight devices, evaluated, exported, read again."""

import json
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file

import ner as script
from jaxllm.cli import tag as command
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.tagging import chains
from jaxllm.recipes.script import parse
from jaxllm.types import InputError

pytestmark = pytest.mark.slow


def test_a_crf_is_trained_evaluated_and_goes_on(tmp_path, capsys):
    for name, count in (("train", 80), ("dev", 30)):
        rows = builtin.ner()[name][:count]
        known = {tag for row in builtin.ner()["train"][:80] for tag in row["ner_tags"]}
        lines = ("\n".join(f"{w}\t{t}" for w, t in zip(row["tokens"], row["ner_tags"], strict=True))
                 for row in rows if {*row["ner_tags"]} <= known)  # fmt: skip
        (tmp_path / f"{name}.conll").write_text("-DOCSTART- O\n\n" + "\n\n".join(lines) + "\n")
    fast = ["--dataset", str(tmp_path), "--steps", "2", "--eval-every", "0", "--log-to", "none", "--loss", "crf"]
    fast += ["--document-context", "8"]
    with mock.patch.dict(script.PRESETS["tiny"], depth=2):
        script.main(parse(script.Config, [*fast, "--vocab-size", "400", "--out", str(tmp_path / "a")]))
    tensors = load_file(tmp_path / "a" / "hf" / "crf.safetensors")
    assert sorted(tensors) == ["crf.end", "crf.pairs", "crf.start"]
    assert np.any(tensors["crf.pairs"])
    assert np.isfinite(json.loads((tmp_path / "a" / "summary.json").read_text())["final"]["dev/loss"])
    more = ["--model", str(tmp_path / "a"), "--decode", "viterbi", "--steps", "1", "--out", str(tmp_path / "b")]
    script.main(parse(script.Config, [*fast, *more]))
    written = json.loads((tmp_path / "b" / "hf" / "config.json").read_text())
    assert (written["crf"], written["decode"], written["document_context"]) == (True, "viterbi", 8)
    labels = written["label2id"]
    valid = chains.valid_chain(sorted(labels, key=labels.get), "IOB2")
    for line in (tmp_path / "b" / "predictions.jsonl").read_text().splitlines():
        path = np.array([labels[tag] for tag in json.loads(line)["predicted"]])
        assert np.isfinite(chains.path_score(np.zeros((len(path), len(labels))), path, valid))
    assert (tmp_path / "b" / "report.md").read_text().startswith("# Entities")
    command.main(command.Config(str(tmp_path / "b"), ("Ada Lovelace moved to Paris.",), json=True))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["aggregation"] == "words"
    with pytest.raises(InputError, match="--decode beam: give one of argmax, viterbi"):
        script.main(parse(script.Config, [*fast, "--decode", "beam", "--out", str(tmp_path / "c")]))
