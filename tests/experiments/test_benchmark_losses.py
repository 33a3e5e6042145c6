"""Five whole train steps of SFT and of DPO, by the scripts as they are, against TRL's trainers on the same rows."""

import json

import numpy as np
import pytest

import preference
import sft
from jaxllm.models.decoder import Config as Shape
from jaxllm.recipes.script import parse
from jaxllm.run.metrics import read_jsonl
from workloads import tuning
from workloads.work import OUT, Asked

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[bench]'")
pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[bench]'")
import trl_tuning

WORDS = ["red", "green", "blue", "round", "flat", "long", "short", "old", "new", "warm", "cold", "soft", "hard"]
SHAPE = Shape(vocab_size=400, width=32, depth=2, heads=4, kv_heads=2, mlp_width=48, max_positions=128)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(stage, count=40):
    """Rows of uneven length, one of which is cut."""
    rng = np.random.default_rng(0)
    for i in range(count):
        right, wrong = (" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(2))
        right += " and more" * (40 if i == 3 else 0)
        yield {"instruction": f"Say {right[:60]}.", **({"output": right} if stage == "sft" else
               {"chosen": right, "rejected": f"no {wrong}"})}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "script"), [("sft", sft), ("dpo", preference)])
def test_losses_of_five_steps_are_trls(stage, script, tmp_path, monkeypatch):
    (tmp_path / "data.json").write_text(json.dumps(list(rows_of(stage))))
    asked = Asked("small", str(tmp_path / "data.json"), steps=5, untimed=1, batch_size=8, max_length=48)
    monkeypatch.setattr(tuning, "LEARNING_RATE", 1e-2)
    work = tuning.prepare(stage, asked, tmp_path, SHAPE)
    flags = [word.replace(OUT, str(tmp_path / "run")) for word in work.ours[1:]]
    script.main(parse(script.Config, [*flags, "--no-pack"]))
    ours = [line["loss"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    flags = [word.replace(OUT, str(tmp_path / "theirs.json")) for word in work.peers["TRL"].command[1:]]
    theirs = trl_tuning.tune(parse(trl_tuning.Config, flags))
    assert len(ours) == 5
    assert abs(ours[4] - ours[0]) > 1e-2, "something was learnt"
    np.testing.assert_allclose(ours, theirs["losses"], atol=2e-5)
