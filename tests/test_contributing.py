"""The table of CONTRIBUTING.md on what an addition touches: what it names exists, and each kind is added here so."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file

import sft
from jaxllm import __main__ as commands
from jaxllm.data.chat import rows
from jaxllm.hf import families, open_model
from jaxllm.hf import llama as file_of_llama
from jaxllm.losses import PairLogps, resolve
from jaxllm.params import materialize
from jaxllm.recipes.script import parse
from jaxllm.train import optimizers
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.types import InputError

ROOT = Path(__file__).parents[1]


def table():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("| to add |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_every_file_and_example_that_the_table_names_exists():
    assert len(table()) == 8
    for kind, touch, example in table():
        for name in re.findall(r"`([\w/.]+)`", f"{touch} {example}"):
            if "/" not in name and not name.endswith(".py"):  # a function or field: in one of the files of its row
                files = [path for path in (ROOT / "jaxllm").rglob("*.py") if path.name in _files(touch, example)]
                files += [path for path in (ROOT / "experiments").glob("*.py") if path.name in _files(touch, example)]
                assert any(re.search(rf"\b{name}\b", path.read_text()) for path in files), (kind, name)
            elif name != "experiments/":
                places = [ROOT / "jaxllm", ROOT / "jaxllm" / "losses", ROOT / "experiments"]
                assert any((place / name).exists() for place in places), (kind, name)


def _files(*cells):
    return {name.rpartition("/")[2] for cell in cells for name in re.findall(r"`([\w/]+\.py)`", cell)}


def test_a_loss_is_one_function_of_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax\n"
        "from jaxllm.losses import preference_loss\n"
        "@preference_loss\n"
        "def margin(p, *, beta=0.1):\n"
        "    return -jax.nn.log_sigmoid(beta * p.delta_B)\n"
    )
    p = PairLogps.of([[-1.0, -1.0]], [[-2.0, -2.0]], [[-1.0, -1.0]], [[-1.0, -1.0]])
    assert float(resolve(f"{tmp_path}/mine.py:margin", beta=0.5).mean(p)) == pytest.approx(np.log1p(np.exp(-0.5 * 2)))


def test_a_shape_of_chat_rows_is_one_entry(monkeypatch):
    row = {"ask": "Why?", "reply": "Because."}
    monkeypatch.setattr(rows, "_SHAPES", (*rows._SHAPES, (("ask", "reply"), rows._turn)))
    found = rows.dialogue(row, "a.jsonl, line 1")
    assert [message["content"] for message in found.messages] == ["Why?", "Because."]


def test_a_metric_is_a_number_of_an_evaluation(tmp_path):
    def evaluate(runner):
        return {**toy_run.dev_loss(runner), "largest": float(jnp.abs(runner.params["kernel"]).max())}

    evaluate.numbers = ("loss", "largest")
    fitted = toy_run.go(tmp_path / "run", evals={"dev": evaluate}, best="dev/largest:max", steps=5)
    assert max(line["dev/largest"] for line in fitted.log if "dev/largest" in line) > 0


def test_an_optimizer_is_one_entry(monkeypatch):
    momentum = optimizers.Optimizer(lambda beta1, beta2, eps: optax.trace(beta1))
    monkeypatch.setitem(optimizers.OPTIMIZERS, "momentum", momentum)
    config = OptimConfig(optimizer="momentum", learning_rate=0.1, weight_decay=0.0, max_grad_norm=0.0, beta1=0.5)
    params = {"kernel": jnp.ones((2, 2))}
    own = make_optimizer(config, params, lambda step: 0.1)
    state = own.init(params)
    for expected in (-0.1, -0.15):  # the trace of gradients of 1 is 1, and then 1 + 0.5
        updates, state = own.update(params, state, params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_a_family_of_decoders_is_one_file_and_one_line(monkeypatch, llama):
    monkeypatch.delitem(families.LANGUAGE_MODELS, "llama")
    with pytest.raises(InputError, match="llama"):
        open_model(str(llama), "lm")
    monkeypatch.setitem(families.LANGUAGE_MODELS, "llama", file_of_llama.FAMILIES["llama"])
    opened = open_model(str(llama), "lm")
    here = SingleDeviceSharding(jax.devices()[0])
    params = materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, here), seed=0)
    theirs = load_file(llama / "model.safetensors")
    np.testing.assert_array_equal(params["embeddings.tokens.embedding"], theirs["model.embed_tokens.weight"])


def test_a_command_is_one_file_and_one_line(monkeypatch, capsys, command):
    module = types.ModuleType("jaxllm.cli.hello")

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Greets."""

        name: str = "you"
        """Who is greeted."""

    module.Config, module.main = Config, lambda config: print(f"hello {config.name}")
    monkeypatch.setitem(sys.modules, "jaxllm.cli.hello", module)
    monkeypatch.setitem(commands.COMMANDS, "hello", "greet")
    command("hello", "--name", "Ada")
    assert capsys.readouterr().out == "hello Ada\n"


def test_a_flag_of_one_script_is_a_field():
    @dataclasses.dataclass(frozen=True)
    class Config(sft.Config):
        """Fine-tuning."""

        temperature: float = 1.0
        """Of the samples."""

    assert parse(Config, ["--temperature", "0.5"]).temperature == 0.5
