"""`experiments/reward.py`, end to end: what it writes, and what `transformers` makes of it."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from data_rows import write_jsonl

import preference
import reward
from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.hf import open_model
from jaxllm.params import bind, materialize
from jaxllm.recipes.script import parse
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import Batch, InputError

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

torch.set_num_threads(1)

FLAGS = (
    "--model", "tiny", "--vocab-size", "300", "--max-length", "48", "--steps", "24", "--learning-rate", "3e-3",
    "--batch-size", "8", "--log-to", "none", "--eval-every", "0", "--checkpoint-every", "0", "--mesh", "data=8",
)  # fmt: skip


def rows(number, seed=0):
    """Which of two answers has the word good in it."""
    rng = np.random.default_rng(seed)
    words = ["red", "green", "blue", "sky", "sea", "tree"]
    for _ in range(number):
        a, b, c = rng.choice(words, 3)
        yield {"prompt": f"Say {a}.", "chosen": f"{b} is good", "rejected": f"{c} is bad", "margin": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    for name, number in (("train", 96), ("dev", 16)):
        write_jsonl(folder / f"{name}.jsonl", rows(number, len(name)))
    out = folder / "run"
    more = ["--dataset", str(folder), "--out", str(out), "--loss-args", "center=0.01"]
    reward.main(parse(reward.Config, [*FLAGS, *more]))
    return out


def test_it_learns_which_answer_is_better(run):
    lines = read_jsonl(run / "metrics.jsonl")
    evals = [line for line in lines if "dev/loss" in line]
    assert evals[-1]["dev/rewards/accuracies"] == 1.0
    assert evals[-1]["dev/loss"] < 0.5
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["dev/rewards/accuracies"] == 1.0
    assert not [name for name in lines[0] if name.startswith("logps")]


def test_transformers_gives_the_same_rewards(run):
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "hf")
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(run / "hf", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id

    texts = [row["prompt"] + row[side] for row in rows(6, 9) for side in ("chosen", "rejected")]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="right")
    theirs = model.eval()(**batch).logits[:, 0].detach().numpy()
    opened = open_model(str(run / "hf"), "scorer")
    at = shardings(opened.spec.graphdef.abstract, make_mesh("data=8"), opened.spec.rules)
    scorer = bind(opened.spec.graphdef, materialize(opened.spec, at, 0))
    mask_BT = jnp.asarray(batch["attention_mask"].numpy(), jnp.int32)
    tokens_BT = jnp.asarray(batch["input_ids"].numpy(), jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD, _ = scorer.hidden(Batch(tokens_BT, None, None, mask_BT, positions_BT))
    last_B = [len(one) - 1 for one in ids]
    ours = np.asarray(scorer.head(hidden_BTD))[np.arange(len(ids)), last_B, 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.all(ours[::2] > ours[1::2]), "prompt and answer are read as they were in training"


def again(run, out, *more):
    """A run that goes on from this one, or from its checkpoints, without a step that changes anything."""
    flags = [*FLAGS[4:], "--model", run, "--dataset", run.parent, "--out", out, "--steps", 1, *more]
    reward.main(parse(reward.Config, [str(flag) for flag in flags]))
    return json.loads((out / "summary.json").read_text())["final"]


def test_a_reward_model_goes_on_with_its_own_head_from_its_export_or_its_checkpoint(run, tmp_path):
    before = json.loads((run / "summary.json").read_text())["final"]
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("hf", "summary.json"))
    flags = ("--dataset", str(run.parent), "--learning-rate", "0", "--loss-args", "center=0.01", "--no-export")
    for source in (run, bare):
        found = again(source, tmp_path / f"{source.name}-more", *flags)
        assert found == pytest.approx(before, rel=1e-5)


def test_adapters_of_a_reward_model_have_its_head_beside_them(run, tmp_path):
    from safetensors.numpy import load_file

    again(run, tmp_path / "lora", "--lora-rank", "2", "--learning-rate", "0.01")
    names = {name.removeprefix("base_model.model.") for name in
             load_file(tmp_path / "lora" / "adapter" / "adapter_model.safetensors")}  # fmt: skip
    assert "score.weight" in names
    assert all("lora_" in name for name in names - {"score.weight"})
    fields = json.loads((tmp_path / "lora" / "adapter" / "adapter_config.json").read_text())
    assert (fields["task_type"], fields["modules_to_save"]) == ("SEQ_CLS", ["score"])
    old, new = (load_file(folder / "hf" / "model.safetensors") for folder in (run, tmp_path / "lora"))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {"score.weight", *(name for name in old if name.endswith("proj.weight"))}


def test_other_losses_and_data_without_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="no loss of rewards: use bradley_terry"):
        reward.main(parse(reward.Config, ["--loss", "sigmoid", "--out", str(tmp_path / "a")]))
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\nfrom jaxllm.losses.preference import preference_loss\n"
        "from jaxllm.losses.tokens import token_loss\n"
        "@preference_loss\ndef pairs(p, *, beta=0.1):\n    return -p.delta_B\n"
        "@token_loss\ndef tokens(logits_NV, targets_N):\n    return jnp.zeros(len(targets_N))\n"
    )
    for name in ("pairs", "tokens"):
        with pytest.raises(InputError, match=f"{name} is no loss of rewards"):
            reward.main(parse(reward.Config, ["--loss", f"{tmp_path}/mine.py:{name}", "--out", str(tmp_path / "a")]))
    with pytest.raises(InputError, match="tokens is a loss of tokens"):
        preference.main(
            parse(preference.Config, ["--loss", f"{tmp_path}/mine.py:tokens", "--out", str(tmp_path / "a")])
        )
    judged = tmp_path / "judged.jsonl"
    judged.write_text(json.dumps({"prompt": "a", "completion": "b", "label": True}) + "\n")
    with pytest.raises(InputError, match="a reward model wants pairs"):
        reward.main(parse(reward.Config, ["--dataset", str(judged), "--out", str(tmp_path / "b")]))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
