"""The classification script as its user meets it: small runs on eight devices, their exports, and bad input."""

import io
import json
from unittest import mock

import jax
import numpy as np
import pytest
from families import DECODER
from safetensors.numpy import load_file

import classify as script
from jaxllm.cli import classify as command
from jaxllm.data import tokenizers
from jaxllm.data.builtin.ner import wordpiece
from jaxllm.data.builtin.requests import DEMO, requests
from jaxllm.distributed.mesh import make_mesh
from jaxllm.recipes import encoders
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError

FAST = ("--log-to", "none", "--log-every", "1", "--vocab-size", "500")
WORDS = ["good", "bad", "fine", "awful", "nice", "poor", "great", "dull"]


def run(*argv):
    script.main(parse(script.Config, [str(a) for a in argv]))


@pytest.fixture(scope="module", autouse=True)
def _shallow():
    with mock.patch.dict(script.PRESETS["tiny"], depth=2, width=64, heads=2, mlp_width=96):
        yield


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set: the head of the embedded one."""
    folder = tmp_path_factory.mktemp("data")
    for split, part in requests().items():
        write(folder / f"{split}.jsonl", part[: 160 if split == "train" else 24])
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    run("--dataset", data, "--steps", 4, "--mesh", "fsdp=4,tensor=2", "--best", "dev/accuracy:max", "--out", out, *FAST)
    return out


def losses(folder):
    return [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]


def test_the_run_is_whole(trained, data):
    for name in ("predictions.jsonl", "predictions-dev.jsonl", "report.png", "hf"):
        assert (trained / name).exists(), name
    assert np.isfinite(losses(trained)).all()
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["problem"], len(summary["labels"])) == ("single", 5)
    assert summary["rows"] == {"train": 160, "dev": 24, "test": 24}
    lines = [json.loads(line) for line in (trained / "predictions.jsonl").read_text().splitlines()]
    assert [{x: line[x] for x in ("text", "label")} for line in lines] == [
        json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()
    ]
    right = np.mean([line["label"] == line["predicted"]["label"] for line in lines])
    assert summary["final"]["test/accuracy"] == pytest.approx(right)
    counts = np.array(summary["confusion"]["test"]["counts"])
    assert (counts.sum(), np.trace(counts)) == (24, round(24 * right))


@pytest.fixture(scope="module")
def still(data, tmp_path_factory):
    """Runs without dropout, whose keys are the devices' own, and the losses of one on eight devices."""

    def start(out, *flags, devices=8):
        make, none = script.ClassifierConfig, dict.fromkeys(("embedding_dropout", "mlp_dropout"), 0.0)
        with (
            mock.patch.dict(encoders.MODERN, none),
            mock.patch.object(script, "ClassifierConfig", lambda *a, **k: make(*a, classifier_dropout=0.0, **k)),
            mock.patch("jaxllm.recipes.session.make_mesh", lambda text: make_mesh(text, jax.devices()[:devices])),
        ):
            same = ("--steps", 3, "--batch-size", "16", "--eval-every", "0", "--no-pack", "--no-export", *FAST)
            run("--dataset", data, *same, *flags, "--out", out)
        return losses(out)

    return start, start(tmp_path_factory.mktemp("runs") / "still")


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        ((), 1),
        pytest.param(("--strategy", "pmap"), 8, marks=pytest.mark.slow),
        pytest.param(("--microbatches", "2", "--mesh", "fsdp=4,tensor=2"), 8, marks=pytest.mark.slow),
    ],
)
def test_one_device_pmap_microbatches_and_shards_train_the_same(flags, devices, still, tmp_path):
    start, wanted = still
    np.testing.assert_allclose(start(tmp_path / "other", *flags, devices=devices), wanted, rtol=1e-4)


def test_a_run_goes_on_bit_for_bit(data, tmp_path):
    flags = ("--dataset", data, "--schedule", "constant", "--warmup", 0, "--eval-every", 0, *FAST)
    run(*flags, "--steps", 2, "--out", tmp_path / "whole")
    run(*flags, "--steps", 1, "--out", tmp_path / "parts")
    run(*flags, "--steps", 2, "--out", tmp_path / "parts")
    whole, parts = (load_file(tmp_path / x / "hf" / "model.safetensors") for x in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(parts[name], x, err_msg=name)


def pipeline_of(folder):
    pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    model, info = AutoModelForSequenceClassification.from_pretrained(folder / "hf", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder / "hf"))


def classified(capsys, folder, *texts, **flags):
    command.main(command.Config(str(folder), texts, **flags))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def same(ours, theirs):
    """Whether all scores of a line of ours are those of the pipeline with top_k=None."""
    assert {x["label"]: x["score"] for x in theirs} == pytest.approx(ours["scores"], abs=2e-5)


def test_the_export_says_what_the_command_says(trained, tmp_path, capsys, monkeypatch):
    (tmp_path / "x.txt").write_text("\n".join(DEMO))
    write(tmp_path / "x.jsonl", [{"sentence": text} for text in DEMO])
    ours = classified(capsys, trained, input=str(tmp_path / "x.txt"))
    assert [line["text"] for line in ours] == list(DEMO)
    for line, theirs in zip(ours, pipeline_of(trained)(list(DEMO), top_k=None), strict=True):
        same(line, theirs)
        assert line["label"] == max(theirs, key=lambda x: x["score"])["label"]
    assert classified(capsys, trained / "hf", input=str(tmp_path / "x.jsonl")) == ours
    for name in ("x.txt", "x.jsonl"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / name).read_bytes())))
        assert classified(capsys, trained) == ours
    assert classified(capsys, trained, DEMO[0]) == ours[:1]
    assert 'pipeline("text-classification"' in (trained / "hf" / "README.md").read_text()


def test_the_command_names_what_is_wrong(trained, tmp_path):
    write(tmp_path / "x.jsonl", [{"premise": "a", "hypothesis": "b"}, {"premise": "a"}])
    (tmp_path / "x.txt").write_text('{"text": "a"}\n[3]\n')
    for flags, message in (
        ({"text": ("a", "b", "c")}, "3 texts: give one, or the two of a pair"),
        ({"text": ("a",), "input": "x"}, "texts are given, and --input too"),
        ({"input": "nowhere.csv"}, "--input nowhere.csv: no such file"),
        ({"input": str(tmp_path / "x.txt")}, "x.txt, line 2: list where an object"),
        ({"text": ("a", "b")}, "^the text: a pair of texts, and the model was trained on single texts; give it these"),
        ({"input": str(tmp_path / "x.jsonl")}, "x.jsonl, line 1: a pair of texts, and the model was trained on single"),
    ):
        with pytest.raises(InputError, match=message):
            command.main(command.Config(str(trained), **flags))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT that has learnt nothing, with a tokenizer, saved for masked language modelling."""
    pytest.importorskip("torch")
    import transformers

    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = wordpiece([" ".join(WORDS), "is what one says"], 400)
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertForPreTraining(config).save_pretrained(folder)
    return folder


def test_pairs_with_a_number(bert, tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [
        {"sentence1": " ".join(rng.choice(WORDS, 3)), "sentence2": " ".join(rng.choice(WORDS, 5)), "score": i / 8}
        for i in range(40)
    ]
    write(tmp_path / "x.jsonl", rows)
    run("--model", bert, "--dataset", tmp_path / "x.jsonl", "--steps", 2, "--out", tmp_path / "run", *FAST)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["final"].keys() == {"dev/pearson", "dev/spearman", "dev/loss"}
    (line,) = classified(capsys, tmp_path / "run", "good bad", "awful nice poor")
    pipe = pipeline_of(tmp_path / "run")
    theirs = pipe({"text": "good bad", "text_pair": "awful nice poor"})
    assert line["score"] == pytest.approx(theirs["score"] if isinstance(theirs, dict) else theirs[0]["score"], abs=2e-5)
    assert pipe.model.config.problem_type == "regression"
    config = pipe.model.config
    assert (config.id2label, config.architectures) == ({0: "score"}, ["BertForSequenceClassification"])
    with pytest.raises(InputError, match=r"^the text: one text, and the model was trained on pairs of texts; give"):
        command.main(command.Config(str(tmp_path / "run"), text=("good bad",)))
    write(tmp_path / "y.jsonl", [{"premise": "a", "hypothesis": "b"}, {"premise": "a"}])
    with pytest.raises(InputError, match=r"y\.jsonl, line 2: a pair with one text, premise"):
        command.main(command.Config(str(tmp_path / "run"), input=str(tmp_path / "y.jsonl")))
    alone = write(tmp_path / "alone.jsonl", [{"text": row["sentence1"], "score": row["score"]} for row in rows])
    with pytest.raises(InputError, match=r"alone\.jsonl, line 1: one text, and the model was trained on pairs"):
        run("--model", tmp_path / "run", "--dataset", alone, "--steps", 2, "--out", tmp_path / "other", *FAST)
    assert not (tmp_path / "other").exists()


def test_several_labels(bert, tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        words = rng.choice(WORDS, 4)
        rows.append({"text": " ".join(words), "labels": sorted({w for w in words if w in WORDS[:3]})})
    write(tmp_path / "x.jsonl", rows)
    flags = ("--class-weights", "balanced", "--steps", 3, "--mesh", "fsdp=8", "--out", tmp_path / "run")
    run("--model", bert, "--dataset", tmp_path / "x.jsonl", *flags, *FAST)
    pipe = pipeline_of(tmp_path / "run")
    assert pipe.model.config.problem_type == "multi_label_classification"
    text = rows[0]["text"]
    (line,) = classified(capsys, tmp_path / "run", text)
    same(line, pipe(text, top_k=None))
    assert line["labels"] == [name for name, x in line["scores"].items() if x > 0.5]


def test_a_decoder_is_read_at_its_last_token(tmp_path, data, capsys):
    pytest.importorskip("torch")
    import transformers

    tokenizer = tokenizers.bpe([row["text"] for row in requests()["train"][:100]], 400)
    tokenizer.save_pretrained(tmp_path / "llama")
    config = transformers.LlamaConfig(**{**DECODER, "vocab_size": 512, "max_position_embeddings": 128})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    run("--model", tmp_path / "llama", "--dataset", data, "--steps", 2, "--out", tmp_path / "run", *FAST)
    pipe = pipeline_of(tmp_path / "run")
    texts = list(DEMO)
    (tmp_path / "x.txt").write_text("\n".join(texts))
    ours = classified(capsys, tmp_path / "run", input=str(tmp_path / "x.txt"))
    for line, theirs in zip(ours, pipe(texts, top_k=None, batch_size=4), strict=True):
        same(line, theirs)
    assert pipe.model.config.architectures == ["LlamaForSequenceClassification"]


BAD = {
    "a label unseen in training": (
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 10, [{"text": "c", "label": "z"}], (),
        "dev.jsonl, line 1: label 'z' is unseen in training",
    ),
    "a label that is no number": (
        [{"text": "a", "label": 0.5}, {"text": "b", "label": "?"}, {"text": "b", "label": 0.2}], [], (),
        "train.jsonl, line 2: label '?' is no number",
    ),
    "one text of a pair": (
        [{"premise": "a", "hypothesis": "b", "label": "x"}, {"premise": "a", "hypothesis": "", "label": "y"}], [], (),
        "train.jsonl, line 2: a pair with one text",
    ),
    "a loss of another problem": ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 10, [],
                                  ("--loss", "mse"), "--loss mse is no loss for one label"),
    "no columns": ([{"prompt": "a", "label": "x"}], [], (), "train.jsonl, line 1: no column of texts"),
    "best of what": ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 10, [],
                     ("--best", "dev/f1:max"), "f1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, tmp_path, capsys):
    train, dev, flags, named = BAD[case]
    write(tmp_path / "train.jsonl", train)
    if dev:
        write(tmp_path / "dev.jsonl", dev)
    with pytest.raises(SystemExit) as stop, input_errors():
        run("--dataset", tmp_path, *flags, "--out", tmp_path / "out", *FAST)
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert named in error
    assert not (tmp_path / "out").exists()
