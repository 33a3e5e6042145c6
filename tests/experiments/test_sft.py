"""The SFT script as its user meets it: a small run on eight devices, what it leaves behind, and bad input."""

import json
import shutil

import numpy as np
import pytest
from data_rows import write_jsonl

import sft as script
from jaxllm.data.builtin import questions
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.metrics import read_jsonl

pytestmark = pytest.mark.slow

FAST = ("--log-to", "none", "--log-every", "1", "--vocab-size", "400", "--model", "tiny", "--samples", "4",
        "--sample-tokens", "4", "--max-length", "64", "--batch-size", "16", "--eval-batch-size", "16")  # fmt: skip


def run(*argv):
    script.main(parse(script.Config, [str(a) for a in argv]))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions, one of them cut, and one that fills the length."""
    rows = [row for row in questions.sft()["train"] if len(row["question"] + row["answer"]) < 75][:120]
    rows[3] = {"question": "Why?", "answer": "because " * 60}
    rows[6] = {"question": "why " * 80, "answer": "Because."}
    return write_jsonl(tmp_path_factory.mktemp("data") / "asked.jsonl", rows)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    run("--dataset", data, "--steps", 4, "--eval-every", 2, "--checkpoint-every", 2, "--out", out,
        "--chat-template", "chatml", *FAST)  # fmt: skip
    return out


def test_run_folder_is_whole(trained):
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.png", "checkpoints", "hf"):
        assert (trained / name).exists(), name
    lines = read_jsonl(trained / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    evals = [line for line in lines if "dev/loss" in line]
    assert [line["step"] for line in evals] == [2, 4]
    assert {"dev/perplexity", "dev/accuracy", "dev/ended", "dev/token_f1"} <= evals[0].keys()
    assert evals[1]["dev/loss"] < evals[0]["dev/loss"]


def test_what_was_cut_and_left_out_stands_in_the_summary(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["cut"] == {"train": {"answers": 1}}
    (places,) = summary["dropped"]["train"].values()
    assert len(places) == 1
    assert places[0].endswith("asked.jsonl, line 7")
    assert summary["final"].keys() == {f"dev/{x}" for x in ("loss", "perplexity", "accuracy", "ended", "token_f1")}


def test_the_export_loads_in_torch_with_its_template_and_tokens(trained):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    assert model.config.vocab_size == len(tokenizer) == 403
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True,
                                           return_dict=True)["input_ids"]  # fmt: skip
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt])).logits[0]
    assert bool(torch.isfinite(logits_TV).all())


def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(trained, data, tmp_path):
    """The folder as it was at step 2; a kill leaves no more behind than that."""
    from safetensors.numpy import load_file

    out = tmp_path / "cut"
    out.mkdir()
    shutil.copy(trained / "config.json", out)
    shutil.copytree(trained / "checkpoints" / "2", out / "checkpoints" / "2")
    run("--dataset", data, "--steps", 4, "--eval-every", 2, "--checkpoint-every", 2, "--out", out,
        "--chat-template", "chatml", *FAST)  # fmt: skip
    whole, again = (load_file(folder / "hf" / "model.safetensors") for folder in (trained, out))
    for name, x in whole.items():
        np.testing.assert_array_equal(x, again[name])


def test_goes_on_from_a_run_with_its_template(trained, data, tmp_path, capsys):
    out = tmp_path / "more"
    run("--dataset", data, "--steps", 1, "--out", out, *FAST[6:], "--model", trained, "--samples", 0, "--shown", 0,
        "--log-to", "terminal")  # fmt: skip
    said = capsys.readouterr().out
    assert "chat template" not in said
    assert "1 left out, the prompt fills --max-length 64" in said
    assert "cut to --max-length: 1 answers" in said
    config = json.loads((out / "hf" / "config.json").read_text())
    assert config["vocab_size"] == 403
    before, after = (json.loads((path / "hf" / "generation_config.json").read_text()) for path in (trained, out))
    assert before == after
    again = tmp_path / "finished"
    shutil.copytree(out, again)
    capsys.readouterr()
    run("--dataset", data, "--steps", 1, "--out", again, *FAST[6:], "--model", trained, "--log-to", "terminal")
    assert "is finished (1 steps)" in capsys.readouterr().out


def test_adapters_alone_are_trained_and_saved_and_the_export_is_merged(trained, data, tmp_path):
    from safetensors.numpy import load_file

    out = tmp_path / "lora"
    run("--dataset", data, "--steps", 2, "--out", out, *FAST, "--model", trained, "--lora-rank", 2)
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)
    old, new = (load_file(folder / "hf" / "model.safetensors") for folder in (trained, out))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {name for name in old if name.endswith("proj.weight")}


@pytest.mark.parametrize(
    ("rows", "flags", "fault"),
    [
        ([{"question": "Why?"}], (), "line 1: its columns are question: question (Why?); wanted one of"),
        ([{"question": "Why?", "answer": ""}] * 3, (), "3 of 3 rows are bad, above --max-bad-rows 0.05: 3 answer is"),
        ([{"messages": [{"role": "assistant", "content": "So."}]}], (), "line 1: roles out of order"),
        ([{"question": "why " * 80, "answer": "So."}], (), "no row is left to train on: 1 left out, the prompt fills"),
        ([{"question": "Why?", "answer": "So."}], ("--chat-template", "chat"), "built in are chatml and plain"),
        ([{"question": "Why?", "answer": "So."}], ("--cut", "middle"), "--cut middle: give one of answer"),
        ([{"question": "Why?", "answer": "So."}], ("--train-on", "questions"), "--train-on questions: give"),
        ([{"question": "Why?", "answer": "So."}], ("--holdout", "1"), "--holdout 1.0: give a share"),
        ([{"question": "Why?", "answer": "So."}], ("--loss", "cross_entropi"), "cross_entropy"),
        ([{"question": "Why?", "answer": "So."}], ("--loss", "dpo"), "--loss dpo compares answers"),
        ([{"question": "Why?", "answer": "So."}], ("--loss", "bradley_terry"), "is a loss of rewards"),
        ([{"messages": ["Why?"]}], (), "its messages holds a str, wanted messages alone"),
        ([{"question": "Why?", "answer": 5}], (), "its answer is an int, wanted text"),
        ([{"question": "Why?", "answer": "So."}], ("--max-length", "4000"), "--max-length 4000: the context"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, rows, flags, fault):
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(SystemExit) as stop, input_errors():
        run("--dataset", path, "--out", tmp_path / "out", *FAST, *flags)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert fault in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_loss_that_raises_is_placed_in_its_file(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(
        "from jaxllm.losses.tokens import token_loss\n\n\n@token_loss\n"
        "def broken(logits_NV, targets_N, *, gamma=2.0):\n    return gamma / 0\n"
    )
    with pytest.raises(SystemExit) as stop, input_errors():
        run("--dataset", data, "--out", tmp_path / "out", "--steps", 1, "--loss", "my_losses.py:broken", *FAST)
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "error: --loss my_losses.py:broken does not run on tokens: ZeroDivisionError: float division by zero "
        "(my_losses.py:6 in broken)"
    )
    assert not (tmp_path / "out").exists()
    assert said[1] == "Traceback (most recent call last):"
    assert any("return gamma / 0" in line for line in said[2:])
