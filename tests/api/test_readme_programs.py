"""The programs of the README, as a reader would run them: on tiny models, in a folder of their own."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NAMES = ("decoder", "dpo", "tagger", "generation", "weights")
PROGRAMS = dict(zip(NAMES, (block for block in BLOCKS if "import jaxllm\n" in block), strict=True))
LINES = {"decoder": 30, "dpo": 25, "tagger": 25, "generation": 8, "weights": 10}


def run(name, models, tmp_path, monkeypatch, **replaced):
    """Runs a program with tiny models in place of its paths, and rates at which those learn; what it defined."""
    program = PROGRAMS[name]
    for path, folder in models.items():
        program = program.replace(f'"{path}"', repr(str(folder)))
    for old, new in replaced.values():
        assert old in program
        program = program.replace(old, new)
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    exec(compile(program, f"README.md: {name}", "exec"), scope)
    return scope


@pytest.fixture
def models(llama, bert):
    return {"path/to/llama-instruct": llama, "path/to/bert": bert}


@pytest.mark.parametrize("name", LINES)
def test_programs_are_short(name):
    assert len([line for line in PROGRAMS[name].splitlines() if line.strip()]) <= LINES[name]


def test_a_decoder_learns_by_a_loss_of_the_cell(models, tmp_path, monkeypatch, capsys):
    scope = run("decoder", models, tmp_path, monkeypatch, rate=("2e-5", "5e-3"))
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line[0].isdigit()]
    assert losses[-1] < 0.8 * losses[0]
    assert int(scope["state"].step) == len(scope["batches"]) == 39
    assert (tmp_path / "tuned" / "model.safetensors").is_file()


def test_the_same_on_eight_devices(models, tmp_path, monkeypatch):
    old = f"jaxllm.load({str(models['path/to/llama-instruct'])!r})"
    scope = run("decoder", models, tmp_path, monkeypatch, mesh=(old, old[:-1] + ', mesh="fsdp=8")'))
    kernel = scope["state"].params["blocks.mlp.up.kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    assert (tmp_path / "tuned" / "model.safetensors").is_file()


def test_dpo(models, tmp_path, monkeypatch, capsys):
    scope = run("dpo", models, tmp_path, monkeypatch, rate=("1e-6", "1e-3"))
    assert float(scope["metrics"]["rewards/accuracies"]) == 1.0
    assert "rewards/margins" in capsys.readouterr().out


def test_a_tagger(models, tmp_path, monkeypatch, capsys):
    run("tagger", models, tmp_path, monkeypatch, rate=("5e-5", "2e-3"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:-3] for line in lines] == [["per", "Ada", "Lovelace"], ["per", "Grace"], ["loc", "London"]]
    assert (tmp_path / "tagger" / "config.json").is_file()


def test_generation(models, tmp_path, monkeypatch, capsys):
    run("generation", models, tmp_path, monkeypatch)
    assert len(capsys.readouterr().out) > 2


def test_weights(models, tmp_path, monkeypatch, capsys):
    from safetensors.numpy import load_file

    run("weights", models, tmp_path, monkeypatch)
    assert "blocks.attn.q.kernel (2, 32, 32)" in capsys.readouterr().out
    before, after = (
        load_file(folder / "model.safetensors") for folder in (models["path/to/llama-instruct"], tmp_path / "half")
    )
    for name, x in before.items():
        expected = x / 2 if name.endswith("mlp.down_proj.weight") else x
        assert (after[name] == expected).all()


def test_the_loss_of_the_readme_runs_as_it_is_pasted(tmp_path, monkeypatch):
    import numpy as np

    from jaxllm.losses import PairLogps, resolve

    [text] = re.findall(
        r"```python\n(import jax\n\nfrom jaxllm.losses import preference_loss\n.*?)```", README, re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(text)
    pair = PairLogps.of([[-1.0, -2.0]], [[-4.0]], [[-1.5, -2.0]], [[-3.0]])
    found = resolve("my_losses.py:margin", beta=0.2).per_pair(pair)
    np.testing.assert_allclose(found, np.log1p(np.exp(-0.2 * np.array([1.5]))), rtol=1e-6)


def test_the_policy_loss_of_the_readme_runs_as_it_is_pasted(tmp_path, monkeypatch):
    import numpy as np

    from jaxllm.losses import PolicyLogps, resolve

    [text] = [block for block in BLOCKS if "import policy_loss" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_policy.py").write_text(text)
    logps = PolicyLogps.of(np.log([[0.3, 0.5]]), np.log([[0.2, 0.5]]), [[1, 1]], [2.0])
    found = resolve("my_policy.py:soft", epsilon=0.4).mean(logps)
    np.testing.assert_allclose(found, -np.tanh(0.5 / 0.4) * 0.4 * 2 / 2, rtol=1e-6)


def test_the_readme_names_every_field_that_pairs_have():
    from jaxllm.losses.pairs import PairLogps

    fields = {field.name for field in dataclasses.fields(PairLogps)} | {"delta_B", "chosen_ratio_B", "rejected_ratio_B"}
    table = README[README.index("## A loss of your own") : README.index("## What is checked")]
    assert fields <= set(re.findall(r"`p\.(\w+)`", table))


@pytest.mark.slow
def test_mypy_is_content_with_the_programs(tmp_path):
    for name, program in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(program)
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "mypy"  # what it knows of JAX outlives the run
    command = [
        sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", f"--cache-dir={cache}",
        *map(str, tmp_path.glob("*.py")),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout
