"""The NER script as its user meets it: one small run on eight devices, what it leaves behind, and bad input."""

import dataclasses
import json
import shutil
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import ner as script
from jaxllm import hf
from jaxllm.cli import tag as command
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.packing import collate
from jaxllm.data.tagging import examples as ner_data
from jaxllm.distributed import mesh as meshes
from jaxllm.evals.tag import tag, tag_words
from jaxllm.params import bind, materialize
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.forward import Runner
from jaxllm.types import InputError

FAST = ("--log-to", "none", "--log-every", "2", "--vocab-size", "600")


def write_conll(path, rows):
    lines = ("\n".join(f"{w}\t{t}" for w, t in zip(row["tokens"], row["ner_tags"], strict=True)) for row in rows)
    path.write_text("\n\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small data set: the head of the embedded one."""
    path = tmp_path_factory.mktemp("data")
    rows = builtin.ner()
    write_conll(path / "train.conll", rows["train"][:160])
    write_conll(
        path / "dev.conll", [row for row in rows["dev"] if set(row["ner_tags"]) <= tags(rows["train"][:160])][:40]
    )
    return path


def tags(rows):
    return {tag for row in rows for tag in row["ner_tags"]}


def run(*argv):
    """Flags to run folder, as the command line does it but in this process."""
    config = parse(script.Config, [str(a) for a in argv])
    script.main(config)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of a few steps over eight devices, with every dropout on; the preset has two of its four layers."""
    out = tmp_path_factory.mktemp("runs") / "a"
    with mock.patch.dict(script.PRESETS["tiny"], depth=2):
        run("--dataset", folder, "--steps", 4, "--eval-every", 2, "--best", "dev/f1:max", "--out", out, *FAST)
    return out


def test_run_folder_is_whole(trained, folder):
    for name in (
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "predictions.jsonl",
        "report.png",
        "checkpoints",
        "hf",
    ):
        assert (trained / name).exists(), name
    lines = read_jsonl(trained / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4]
    assert {"grad_norm", "learning_rate", "tokens_per_s", "tflops_per_device", "mfu", "epoch"} <= steps[0].keys()
    assert [line["step"] for line in lines if "dev/f1" in line] == [2, 4]
    config = json.loads((trained / "config.json").read_text())
    assert config["config"].keys() == {field.name for field in dataclasses.fields(script.Config)}
    assert config["versions"]["jax"] == jax.__version__
    predictions = [json.loads(line) for line in (trained / "predictions.jsonl").read_text().splitlines()]
    words = [line.split("\t")[0] for line in (folder / "dev.conll").read_text().splitlines() if line]
    assert [word for row in predictions for word in row["tokens"]] == words
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["finished"], summary["dropped"], summary["cut"]) == (True, {}, {})


def test_finished_run_says_so_and_changes_nothing(trained, folder, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    args = ["--dataset", folder, "--steps", 4, "--eval-every", 2, "--best", "dev/f1:max", "--out", trained, *FAST]
    args[args.index("none")] = "jsonl"
    run(*args)
    assert "is finished (4 steps)" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_transformers_loads_the_export_with_the_same_logits_and_tags(trained):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    theirs, info = AutoModelForTokenClassification.from_pretrained(trained / "hf", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    opened = hf.open_model(str(trained / "hf"), "tagger")
    mesh = meshes.make_mesh()
    at = meshes.shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules)
    params = materialize(opened.spec, at, 0)
    texts = list(builtin.NER_DEMO)
    windows, _ = ner_data.encode_text(texts, tokenizer, 128)
    batch = collate([[example] for example in windows.examples], 64, len(texts))

    @jax.jit
    def forward(params):
        model = bind(opened.spec.graphdef, params)
        return model.head(model.hidden(batch)[0])

    logits = np.asarray(forward(params))
    encoded = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=64)
    with torch.no_grad():
        wanted = theirs(**encoded).logits.numpy()
    real = encoded["attention_mask"].numpy().astype(bool)
    assert np.abs(logits - wanted)[real].max() < 1e-4

    runner = Runner(opened.spec.graphdef, params, mesh)
    for aggregation, find in (("simple", tag), ("first", tag_words)):
        found = find(runner, tokenizer, opened.config.labels, texts, 128)
        pipe = pipeline("token-classification", model=theirs, tokenizer=tokenizer, aggregation_strategy=aggregation)
        for ours, entities in zip(found, pipe(texts), strict=True):
            assert [(e["entity_group"], e["start"], e["end"]) for e in ours] == [
                (e["entity_group"], e["start"], e["end"]) for e in entities
            ]
            np.testing.assert_allclose([e["score"] for e in ours], [e["score"] for e in entities], atol=1e-5)
            if aggregation == "simple":  # where the pipeline decodes the tokens, whole words are as the text has them
                assert [e["word"] for e in ours] == [e["word"] for e in entities]
    assert 'aggregation_strategy="first"' in (trained / "hf" / "README.md").read_text()


def test_tag_prints_json_with_offsets(trained, capsys):
    text = "Ada Lovelace moved to Paris."
    for config, aggregation in (({}, "words"), ({"words": True}, "words"), ({"aggregation": "simple"}, "simple")):
        command.main(command.Config(str(trained), (text,), json=True, **config))
        line = json.loads(capsys.readouterr().out)
        assert (line["text"], line["aggregation"]) == (text, aggregation)
        assert all(0 <= e["start"] < e["end"] <= len(text) for e in line["entities"])
        if aggregation == "words":
            assert all(text[e["start"] : e["end"]] == e["word"] for e in line["entities"])
            assert all(not text[e["end"] : e["end"] + 1].isalpha() for e in line["entities"])
    with pytest.raises(InputError, match="--aggregation most: give one of words, simple, first, max, average"):
        command.main(command.Config(str(trained), (text,), aggregation="most"))
    with pytest.raises(InputError, match="--words means --aggregation words"):
        command.main(command.Config(str(trained), (text,), words=True, aggregation="simple"))


def test_continues_from_a_run_and_freezes(trained, folder, tmp_path):
    run(
        "--model",
        trained,
        "--dataset",
        folder,
        "--steps",
        1,
        "--freeze",
        "!classifier.*",
        "--out",
        tmp_path / "b",
        *FAST,
    )
    from safetensors.numpy import load_file

    old, new = (load_file(run / "hf" / "model.safetensors") for run in (trained, tmp_path / "b"))
    assert old.keys() == new.keys()
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def broken(folder, tmp_path, **files):
    """The data set with other files in it."""
    path = tmp_path / "broken"
    shutil.copytree(folder, path)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD = {
    "missing file": (lambda d, t: ["--dataset", t / "nowhere" / "x"], "nowhere"),
    "empty file": (lambda d, t: ["--dataset", broken(d, t, train_conll="")], "train.conll"),
    "no tag": (lambda d, t: ["--dataset", broken(d, t, train_conll="EU\tB-org\nrejects\n")], "line 2"),
    "more tags than tokens": (
        lambda d, t: ["--dataset", broken_jsonl(t, '{"tokens": ["a"], "ner_tags": ["O", "O"]}')],
        "line 1",
    ),
    "tag not of the scheme": (lambda d, t: ["--dataset", broken(d, t, dev_conll="EU\tX-person\n")], "X-person"),
    "unseen label": (lambda d, t: ["--dataset", broken(d, t, dev_conll="EU\tB-gene\n")], "B-gene"),
    "not utf-8": (lambda d, t: ["--dataset", broken(d, t, dev_conll=b"caf\xe9\tO\n")], "UTF-8"),
    "mesh larger than the devices": (lambda d, t: ["--dataset", d, "--mesh", "data=16"], "16"),
    "mesh axis": (lambda d, t: ["--dataset", d, "--mesh", "rows=8"], "rows=8"),
    "unpacked batch the mesh cannot divide": (lambda d, t: ["--dataset", d, "--no-pack", "--batch-size", 12], "12"),
    "unknown flag": (lambda d, t: ["--learning-rat", "1"], "--learning-rate"),
    "no number": (lambda d, t: ["--steps", "many"], "many"),
    "unknown loss": (lambda d, t: ["--dataset", d, "--loss", "cross_entrop"], "cross_entropy"),
    "misspelt argument": (lambda d, t: ["--dataset", d, "--loss-args", "label_smothing=1"], "label_smoothing"),
    "unknown schedule": (lambda d, t: ["--dataset", d, "--schedule", "cosin"], "cosine"),
    "freeze nothing": (lambda d, t: ["--dataset", d, "--freeze", "decoder.*"], "decoder.*"),
    "best of what": (lambda d, t: ["--dataset", d, "--best", "f1"], "--best"),
    "optimizer": (lambda d, t: ["--dataset", d, "--optimizer", "sgd"], "adamw"),
    "out is a file": (lambda d, t: ["--dataset", d, "--out", write(t / "file", "x")], "file"),
    "model without tokenizer": (
        lambda d, t: ["--dataset", d, "--model", without(t, "tokenizer*", "vocab*")],
        "tokenizer",
    ),
    "weights cut short": (lambda d, t: ["--dataset", d, "--model", cut(t)], "model.safetensors"),
    "flipped shape": (lambda d, t: ["--dataset", d, "--model", flipped(t)], "mlp.Wi.weight"),
    "pickled weights": (lambda d, t: ["--dataset", d, "--model", pickled(t)], "pickle"),
}


def write(path, text):
    path.write_text(text)
    return path


def broken_jsonl(tmp_path, line):
    path = tmp_path / "jsonl"
    path.mkdir()
    write(path / "train.jsonl", line + "\n")
    return path


MODEL = None


@pytest.fixture(scope="module", autouse=True)
def _model(trained):
    global MODEL
    MODEL = trained / "hf"


def copy(tmp_path):
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def without(tmp_path, *patterns):
    path = copy(tmp_path)
    for pattern in patterns:
        for file in path.glob(pattern):
            file.unlink()
    return path


def cut(tmp_path):
    path = copy(tmp_path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return path


def flipped(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = copy(tmp_path)
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.Wi.weight"))
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def pickled(tmp_path):
    path = without(tmp_path, "*.safetensors")
    return write(path / "pytorch_model.bin", "").parent


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, folder, tmp_path, capsys):
    argv, named = BAD[case]
    argv = argv(folder, tmp_path)
    out = [] if "--out" in argv else ["--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as stop, input_errors():
        run(*argv, *out, *(flag for flag in FAST))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert named in error
    assert not (tmp_path / "out").exists()
