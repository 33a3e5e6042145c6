"""The pretraining script as its user meets it: small runs on eight devices, what they leave behind, and bad input."""

import dataclasses
import gzip
import inspect
import json
import re
import textwrap

import fsspec
import numpy as np
import pytest

import pretrain as script
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.data.text.documents import open_documents
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl

pytestmark = pytest.mark.slow

FAST = ("--log-to", "jsonl", "--log-every", "2", "--vocab-size", "300", "--model", "tiny", "--max-length", "32",
        "--sample-tokens", "8")  # fmt: skip
SCHEDULE = ("--schedule", "constant", "--warmup", "2", "--eval-every", "3", "--checkpoint-every", "3")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Tokenizers and tokens of these tests are not kept with the user's; nothing here is in a hurry to run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path := tmp_path_factory.mktemp("cache")))
        yield path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 documents, the functions of a module, as JSON lines; a twentieth of them is held out."""
    path = tmp_path_factory.mktemp("data") / "functions.jsonl"
    functions = [f for _, f in inspect.getmembers(inspect, inspect.isfunction)][:40]
    path.write_text("".join(json.dumps({"text": inspect.getsource(f)}) + "\n" for f in functions))
    return path


def run(*argv):
    """Flags to run folder, as the command line does it but in this process."""
    script.main(parse(script.Config, [str(a) for a in argv]))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run of six steps over eight devices."""
    out = tmp_path_factory.mktemp("runs") / "a"
    run("--dataset", corpus, "--steps", 6, "--optimizer", "muon", "--out", out, *SCHEDULE, *FAST)
    return out


def numbers(folder):
    timing = ("tokens_per_s", "tflops_per_device", "mfu")
    return [{k: x for k, x in line.items() if k not in timing} for line in read_jsonl(folder / "metrics.jsonl")]


def weights(folder, position):
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.params(position, None)
    checkpoints.close()
    return {name: np.asarray(x) for name, x in found.items()}


def test_run_folder_is_whole(trained):
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.png", "checkpoints", "hf"):
        assert (trained / name).exists(), name
    lines = read_jsonl(trained / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4, 6]
    assert steps[0].keys() >= {"grad_norm", "learning_rate", "tokens_per_s", "tflops_per_device", "mfu", "epoch"}
    evaluations = [line for line in lines if "dev/loss" in line]
    assert [line["step"] for line in evaluations] == [3, 6]
    assert evaluations[0].keys() >= {"dev/perplexity", "dev/bits_per_byte", "sample/characters"}
    config = json.loads((trained / "config.json").read_text())
    assert config["config"].keys() == {field.name for field in dataclasses.fields(script.Config)}
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["finished"]
    assert min(summary["rows"].values()) > 0
    assert summary["final"] == {k: x for k, x in evaluations[-1].items() if k.startswith("dev/")}
    names = {path.name for path in (trained / "hf").iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "README.md"}


def test_finished_run_says_so_and_changes_nothing(trained, corpus, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    run("--dataset", corpus, "--steps", 6, "--optimizer", "muon", "--out", trained, *SCHEDULE, *FAST)
    assert "is finished (6 steps)" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_resumed_run_is_the_uninterrupted_one(trained, corpus, tmp_path, capsys):
    out = tmp_path / "b"
    command = ["--dataset", corpus, "--optimizer", "muon", "--out", out, *SCHEDULE, *FAST]
    run("--steps", 3, *command)
    run("--steps", 6, *command)
    said = capsys.readouterr().out
    for part in ("run  ", "model  ", "train  ", "dev  ", "rows  ", "for transformers:"):
        assert said.count(f"\n{part}") + said.startswith(part) == 2, part
    ours, theirs = weights(out, 6), weights(trained, 6)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x, err_msg=name)
    # The first run ended at step 3 and logged there; what both logged is the same.
    wanted = {line["step"]: line for line in numbers(trained) if "dev/loss" in line}
    assert {line["step"]: line for line in numbers(out) if "dev/loss" in line} == wanted


def test_transformers_loads_the_export_with_the_same_loss(trained, corpus):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(trained / "hf", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    nats = count = size = 0.0
    for text in open_documents(str(corpus), 0.05)["dev"].texts():
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        assert ids[0] == tokenizer.bos_token_id
        for start in range(0, len(ids) - 1, 32):  # a row of 32 sees nothing before it
            window = torch.tensor([ids[start : start + 33]])
            with torch.no_grad():
                logits = model(window[:, :-1]).logits[0].double()
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
            count += window.shape[1] - 1
        size += len(text.encode())
    final = json.loads((trained / "summary.json").read_text())["final"]
    assert final["dev/loss"] == pytest.approx(nats / count, rel=1e-5)
    assert final["dev/perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-4)
    assert final["dev/bits_per_byte"] == pytest.approx(nats / np.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("start", [".", "hf"])
def test_training_goes_on_from_a_run_or_its_export(trained, corpus, tmp_path, start):
    """At a learning rate of 0 the model stays what it was."""
    flags = [*FAST[: FAST.index("--model")], "--max-length", 32, "--sample-tokens", 0, "--learning-rate", 0]
    run("--model", trained / start, "--dataset", corpus, "--steps", 1, "--out", tmp_path / "c", *flags)
    before, after = (json.loads((folder / "summary.json").read_text())["final"] for folder in (trained, tmp_path / "c"))
    assert after == pytest.approx(before, rel=1e-6)


def test_the_other_ways_to_train(corpus, tmp_path, capsys):
    """Two data sets by weight, end to end in rows; bfloat16, all recomputed, in microbatches, and pmap."""
    other = tmp_path / "other.txt"
    other.write_text(textwrap.dedent(inspect.getsource(textwrap)))
    run("--dataset", f"{corpus}:3", f"{other}:1", "--concatenate", "--steps", 12, "--optimizer", "schedule_free_adamw",
        "--dtype", "bfloat16", "--remat", "full", "--batch-size", 16, "--microbatches", 2, "--strategy", "pmap",
        "--learning-rate", 1e-2, "--loss-args", "z_loss=1e-4", "label_smoothing=0.1", "--schedule", "wsd",
        "--eval-every", 0,
        "--prompt", "def ", "--export-dtype", "bfloat16", "--out", tmp_path / "d", *FAST)  # fmt: skip
    lines = numbers(tmp_path / "d")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.2
    assert "\ndef " in capsys.readouterr().out, "the sample continues the prompt"
    assert json.loads((tmp_path / "d/hf/config.json").read_text())["dtype"] == "bfloat16"


def test_without_flags_it_is_the_demo():
    config = script.settle(parse(script.Config, []))
    assert config.dataset == ("builtin",)
    assert config.model == "small"
    assert config.steps > 0
    assert script.settle(parse(script.Config, ["--dataset", "a.txt"])).epochs == 1
    assert script.settle(parse(script.Config, ["--epochs", "2"])).steps == 0


def test_shards_elsewhere_are_named_for_their_splits_and_read_once(corpus, cache, tmp_path, capsys):
    """Compressed shards on another file system, two to train on; a second run is served by the cache alone."""
    memory, lines = fsspec.filesystem("memory"), corpus.read_bytes().splitlines(keepends=True)
    for name, part in (("a", lines[:15]), ("b", lines[15:30]), ("c", lines[30:])):
        memory.pipe(f"/corpus/{name}.jsonl.gz", gzip.compress(b"".join(part)))
    argv = ("--dataset", "memory://corpus/*.jsonl.gz", "--split", "train=a+b,dev=c", "--steps", 2, "--warmup", 0, *FAST,
            "--log-to", "terminal")  # fmt: skip
    run(*argv, "--out", tmp_path / "first")
    said = capsys.readouterr().out
    assert re.search(r"train +memory://corpus/a.jsonl.gz and 1 more: [\d,]+ tokens, 30 documents", said)
    assert re.search(r"dev +memory://corpus/c.jsonl.gz: [\d,]+ tokens, 10 documents", said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(memory), "cat_file", None)
        run(*argv, "--out", tmp_path / "second")
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")
    assert len(list((cache / "jaxllm" / "downloads").rglob("whole-*"))) == 3


BAD = {
    "preset": (lambda c, t: ["--model", "gpt2-124"], "did you mean gpt2-124m"),
    "context": (lambda c, t: ["--max-length", 513], "--max-length 513: the context of the model is 512"),
    "empty": (lambda c, t: ["--dataset", write(t / "a.txt", "")], "a.txt: there is no text in it"),
    "short": (lambda c, t: ["--dataset", write(t / "a.txt", "a b c d e"), "--holdout", 0], "do not fill one row of 32"),
    "bytes": (lambda c, t: ["--dataset", write(t / "a.txt", b"ab\xff\xfe" * 9)], "a.txt: not UTF-8"),
    "json": (lambda c, t: ["--dataset", write(t / "a.jsonl", '{"text": "a"}\n{"text": 3}\n')], "a.jsonl, line 2"),
    "column": (lambda c, t: ["--dataset", write(t / "a.jsonl", '{"body": "a"}\n')], "no 'text' column, there is body"),
    "missing": (lambda c, t: ["--dataset", t / "none.txt"], "none.txt: no such file"),
    "suffix": (lambda c, t: ["--dataset", write(t / "a.pdf", "x")], "cannot read text from .pdf"),
    "none": (lambda c, t: ["--dataset"], "--dataset is empty"),
    "weight": (lambda c, t: ["--dataset", f"{c}:0"], "weight 0 is not above 0"),
    "rows": (lambda c, t: ["--concatenate", "--no-pack"], "two ways to fill a row"),
    "holdout": (lambda c, t: ["--holdout", 1], "--holdout 1.0"),
    "optimizer": (lambda c, t: ["--optimizer", "moun"], "did you mean muon"),
    "schedule": (lambda c, t: ["--schedule", "cosin"], "did you mean cosine"),
    "loss": (lambda c, t: ["--loss", "cross_entrop"], "did you mean 'cross_entropy'"),
    "argument": (lambda c, t: ["--loss-args", "zloss=1"], "z_loss"),
    "batch": (lambda c, t: ["--batch-size", 12], "do not divide over 8 devices"),
    "vocabulary": (lambda c, t: ["--vocab-size", 100], "--vocab-size 100: at least 257"),
    "beyond": (lambda c, t: ["--model", write(t / "m.json", json.dumps(SHAPE))], "model's vocabulary 260"),
    "field": (lambda c, t: ["--model", write(t / "m.json", '{"widht": 8}')], "did you mean width"),
    "prompt": (lambda c, t: ["--prompt", "a b " * 999], "the context of the model is 512"),
    "freeze": (lambda c, t: ["--freeze", "embedding.*"], "matches no parameter"),
}  # fmt: skip
SHAPE = {"vocab_size": 260, "width": 16, "depth": 1, "heads": 2, "mlp_width": 16}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, corpus, cache, tmp_path, capsys):
    argv, named = BAD[case]
    argv = argv(corpus, tmp_path)
    with pytest.raises(SystemExit) as stop, input_errors():
        run("--dataset", corpus, "--out", tmp_path / "out", "--steps", 1, *FAST, *argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert named in error
    assert not (tmp_path / "out").exists()
    assert not list(cache.rglob("partial-*"))
