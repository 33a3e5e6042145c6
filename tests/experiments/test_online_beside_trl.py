"""A whole round of `experiments/online.py`, from given completions to two updates, beside TRL's GRPOTrainer."""

import json
import random
import re

import jax
import numpy as np
import pytest
from data_rows import write_jsonl
from safetensors.numpy import load_file

import online
from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.chat.templates import give_pad, give_template
from jaxllm.evals.generate import Sample
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import describe
from jaxllm.recipes import rounds
from jaxllm.recipes.script import parse
from jaxllm.run.metrics import read_jsonl

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[bench]'")
trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[bench]'")
from datasets import Dataset  # which TRL brings
from transformers import AutoModelForCausalLM, AutoTokenizer

SHAPE = Config(vocab_size=32, width=32, depth=2, heads=4, kv_heads=2, mlp_width=48, max_positions=64)
PROMPTS, GROUP, LONGEST, RATE = 4, 4, 6, 3e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A random Llama, sums, and a file of completions: some end, some are right, some are numbers."""
    folder, draw = tmp_path_factory.mktemp("round"), random.Random(0)
    tokenizer = tokenizers.characters(["0123456789+= x"])
    give_template(tokenizer, "plain")
    give_pad(tokenizer)
    params = jax.jit(describe(lambda rngs: Decoder(SHAPE, rngs), SHARDING).init)(jax.random.key(3))
    hf.export(
        folder / "model", {name: 4 * x if x.ndim > 1 else x for name, x in params.items()}, SHAPE, tokenizer,
        tokens={"pad_token_id": tokenizer.pad_token_id},
    )  # fmt: skip
    sums = [(draw.randint(0, 30), draw.randint(0, 9)) for _ in range(PROMPTS)]
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in sums]
    write_jsonl(folder / "sums.jsonl", rows)
    spell = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    given = {}
    for row in rows:
        said = ["".join(draw.choice("0123456789x ") for _ in range(draw.randint(1, 5))) for _ in range(GROUP - 1)]
        texts = [row["answer"], *said]
        draw.shuffle(texts)
        ended = [[*spell(text), tokenizer.eos_token_id] for text in texts[1:]]
        given[row["prompt"]] = [(spell(texts[0]) * LONGEST)[:LONGEST], *ended]
    (folder / "completions.json").write_text(json.dumps(given))
    return folder


def ours(world, out, monkeypatch, *flags):
    """The losses of the script's steps on the completions of the file, and what it exports."""
    given = json.loads((world / "completions.json").read_text())
    tokenizer, read = AutoTokenizer.from_pretrained(world / "model"), []

    def sample(graphdef, params, prompts, *_, ends, max_tokens, **__):
        read.append([tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts])
        found = [given[text][i % GROUP] for i, text in enumerate(read[-1])]
        assert max(map(len, found)) == max_tokens
        return [Sample(np.array(x, np.int32), np.zeros(len(x), np.float32), x[-1] in ends) for x in found]

    monkeypatch.setattr(rounds, "sample", sample)
    online.main(parse(online.Config, [
        "--model", str(world / "model"), "--dataset", str(world / "sums.jsonl"), "--holdout", "0", "--out", str(out),
        "--max-length", "16", "--max-completion-length", str(LONGEST), "--batch-size", str(PROMPTS), "--steps", "2",
        "--num-generations", str(GROUP), "--num-iterations", "2", "--log-every", "1", "--log-to", "none",
        "--learning-rate", str(RATE), "--reward", "exact+format:0.5", "--reward-args", "format.pattern=[0-9]+",
        "--checkpoint-every", "0", *flags,
    ]))  # fmt: skip
    assert len(read) == 1, "both updates are of one round"
    lines = [line for line in read_jsonl(out / "metrics.jsonl") if "loss" in line]
    return lines, load_file(out / "hf" / "model.safetensors")


def theirs(world, out, **arguments):
    """The same by TRL: its log, and the trained weights."""
    given = json.loads((world / "completions.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(world / "model")

    def rollout(prompts, trainer):
        taken = {text: iter(given[text]) for text in prompts}
        found = [next(taken[text]) for text in prompts]
        return {"prompt_ids": tokenizer(prompts)["input_ids"], "completion_ids": found, "logprobs": None}

    def exact(completions, answer, **_):
        return [float(text.strip() == right) for text, right in zip(completions, answer, strict=True)]

    def number(completions, **_):
        return [float(re.fullmatch("[0-9]+", text) is not None) for text in completions]

    settings = trl.GRPOConfig(
        output_dir=str(out), per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, num_iterations=2,
        max_completion_length=LONGEST, max_steps=2, learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0,
        reward_weights=[1.0, 0.5], max_grad_norm=1.0, bf16=False, use_cpu=True, gradient_checkpointing=False,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, **arguments,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32), args=settings,
        reward_funcs=[exact, number], processing_class=tokenizer, rollout_func=rollout,
        train_dataset=Dataset.from_list([json.loads(x) for x in (world / "sums.jsonl").read_text().splitlines()]),
    )  # fmt: skip
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    trained = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return lines, {name: x.detach().numpy() for name, x in trained.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of TRL
@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (["--loss", "grpo", "--loss-args", "beta=0.1"], {"loss_type": "grpo", "beta": 0.1}),
        (["--loss", "dapo", "--mask-truncated-completions"],
         {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}),
    ],
    ids=["grpo", "dapo"],
)  # fmt: skip
def test_two_updates_of_a_round_are_trls(world, tmp_path, monkeypatch, flags, arguments):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines, params = ours(world, tmp_path / "run", monkeypatch, *flags)
    peer_lines, peer_params = theirs(world, tmp_path / "trl", **arguments)
    assert abs(lines[0]["loss"] - lines[1]["loss"]) > 1e-2, "the second update is of another policy"
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([x[name] for x in lines], [x[name] for x in peer_lines], atol=1e-4, err_msg=name)
    for name in ("reward", "reward_std", "rewards/exact/mean", "completions/mean_length"):
        assert lines[0][name] == pytest.approx(peer_lines[0][name], abs=1e-6), name
    start = load_file(world / "model" / "model.safetensors")
    for name, x in params.items():
        np.testing.assert_allclose(x, peer_params[name], atol=1e-4, err_msg=name)
    assert max(np.abs(x - start[name]).max() for name, x in params.items()) > RATE
