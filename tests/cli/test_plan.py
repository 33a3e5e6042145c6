"""Plans of every script on fake CPU devices, from shapes alone."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxllm.cli import plan as command
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import describe_model
from jaxllm.types import InputError

ROOT = Path(__file__).parents[2]
KEYS = {
    "peak_bytes_per_device", "argument_bytes", "temporary_bytes", "parameter_bytes", "optimizer_bytes", "model_flops",
    "hardware_flops", "collectives", "bound", "step_seconds", "mfu", "compile_seconds", "topology", "mesh",
}  # fmt: skip
TINY = ("--model", "tiny", "--max-length", "64", "--batch-size", "8")


def planned(capsys, script, *flags, topology="cpu:8"):
    """The JSON that a plan prints."""
    path = script if os.path.isabs(script) else str(ROOT / "experiments" / f"{script}.py")
    command.main(command.read([path, "--topology", topology, "--json", *flags]))
    out, err = capsys.readouterr()
    assert not err
    assert len(out.splitlines()) == 1
    return json.loads(out)


def preset(capsys, script, known={}):  # noqa: B006  (each is planned once)
    """The plan of a script with TINY alone."""
    if script not in known:
        known[script] = planned(capsys, script, *TINY)
    return known[script]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """In which a plan leaves nothing."""
    monkeypatch.chdir(tmp_path)
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("given", "losses.py", "own.py")] == []


@pytest.mark.parametrize(
    ("flags", "answers"),
    [(["--loss-args", "beta=0.04"], 4), (["--loss", "dpo", "--reward", "model", "--reward-args", "path=nowhere"], 2)],
    ids=["grpo", "dpo"],
)
def test_online(capsys, flags, answers):
    """With a reference's log-probabilities; completions as long as they may be; no reward is looked for."""
    more = ["--max-completion-length", "48", "--num-generations", "4", "--mesh", "fsdp=8"]
    found = planned(capsys, "online", *TINY, *more, *flags)
    assert found["tokens"] == 8 * (64 - 48 - 1 + answers * 48)


def test_pretraining(capsys):
    found = planned(capsys, "pretrain", *TINY, "--mesh", "fsdp=4,tensor=2", "--buffers", "200")
    assert found.keys() >= KEYS
    assert (found["topology"], found["mesh"]) == ("cpu:8", {"fsdp": 4, "tensor": 2})
    shapes = describe_model(PRESETS["tiny"]).graphdef.abstract
    whole = sum(4 * math.prod(x.shape) for x in shapes.values())
    assert found["parameter_bytes"] == pytest.approx(whole / 8, rel=0.01)
    assert found["optimizer_bytes"] == pytest.approx(2 * whole / 8, rel=0.01)
    held = found["parameter_bytes"] + found["optimizer_bytes"] + found["batch_bytes"]
    assert found["argument_bytes"] == pytest.approx(held, rel=0.01)
    assert found["peak_bytes_per_device"] >= found["argument_bytes"] + found["temporary_bytes"]
    assert found["tokens"] == 8 * 64
    assert found["hardware_flops"] > found["model_flops"] > 6 * found["tokens"] * whole / 4
    assert found["bound"] is found["step_seconds"] is found["mfu"] is None, "no table has a CPU's peaks"
    assert found["stand_in"]
    for one in found["collectives"]:
        assert one.keys() >= {"axis", "kind", "what", "bytes", "trips"}
    gathered = [one for one in found["collectives"] if one["what"].startswith("parameters gathered")]
    assert {one["axis"] for one in gathered} >= {"fsdp"}
    assert "embeddings.tokens.embedding and 2 of its optimizer's" in [one["what"] for one in found["buffers"]]
    assert len(preset(capsys, "pretrain")["buffers"]) == 10


@pytest.mark.parametrize(
    ("script", "flags", "rows"),
    [
        ("sft", ("--remat", "full", "--optimizer", "lion", "--microbatches", "2"), (16, 64)),  # two a device
        ("preference", ("--loss", "sigmoid:0.8+sft:0.2"), (8, 96)),
        ("preference", ("--loss", "kto", "--no-share-prompt", "--mesh", "fsdp=2,data=4"), (8, 192)),
        ("reward", ("--lora-rank", "4"), (8, 96)),
        ("ner", ("--mesh", "data=2,fsdp=2,tensor=2"), (8, 64)),
        ("mlm", ("--mesh", "data=2,fsdp=2,tensor=2"), (8, 64)),
        ("classify", ("--mesh", "fsdp=4,data=2"), (8, 64)),
    ],
)
def test_every_other_script(capsys, script, flags, rows):
    found = planned(capsys, script, *TINY, *flags)
    assert found["model_flops"] > 0
    assert found["hardware_flops"] > 0
    assert found["tokens"] == pytest.approx(rows[0] * rows[1], rel=0.05)
    if "--lora-rank" in flags:
        assert found["optimizer_bytes"] < found["frozen_bytes"]
    if "lion" in flags:
        assert found["optimizer_bytes"] == pytest.approx(found["parameter_bytes"], rel=0.01)


def test_a_live_reference_costs_a_forward_pass_and_a_second_model(capsys):
    cached, live = (planned(capsys, "preference", *TINY, "--loss", "sigmoid", "--reference", how)
                    for how in ("cached", "live"))  # fmt: skip
    assert live["model_flops"] == pytest.approx(cached["model_flops"] * 4 / 3, rel=0.001)
    assert live["parameter_bytes"] == 2 * cached["parameter_bytes"] == 2 * live["frozen_bytes"]


def test_a_loss_in_a_file_of_ones_own(capsys, tmp_path):
    (tmp_path / "losses.py").write_text(
        "import jax\nfrom jaxllm.losses import preference_loss\n"
        "@preference_loss\ndef margin(p, *, beta=0.1):\n    return -jax.nn.log_sigmoid(beta * p.delta_B)\n"
    )
    assert planned(capsys, "preference", *TINY, "--loss", "losses.py:margin")["model_flops"] > 0


@pytest.mark.parametrize(("script", "model"), [("pretrain", "given"), ("sft", "given/config.json")])
def test_a_config_without_weights_or_tokenizer(capsys, tmp_path, script, model):
    given = tmp_path / "given"
    given.mkdir()
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64,
              "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "max_position_embeddings": 512, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}  # fmt: skip
    (given / "config.json").write_text(json.dumps(fields))
    found, expected = planned(capsys, script, *TINY, "--model", str(tmp_path / model)), preset(capsys, script)
    assert found["parameter_bytes"] == expected["parameter_bytes"]
    assert found["model_flops"] == expected["model_flops"]


OWN = """
import optax, jax
from jaxllm.data.packing import Example, make_plan
from jaxllm.data.loader import loader
from jaxllm.losses import resolve
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import describe_model
from jaxllm.train.fit import fit
import numpy as np

rows = [Example(*(np.ones(32, t) for t in (np.int32, np.int32, np.float32))) for _ in range(16)]
plan = make_plan([32] * 16, batch_size=8, multiple=8)
data, loss = loader(rows, plan), resolve("cross_entropy")
fit(describe_model(PRESETS["tiny"]), loss=loss, data=data, optimizer=optax.sgd(0.1), steps=2)
raise SystemExit("not reached")
"""


def test_a_script_of_ones_own_that_calls_fit(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    found = planned(capsys, str(tmp_path / "own.py"))
    assert (found["tokens"], found["optimizer_bytes"]) == (8 * 32, 0)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["name the script to plan"]),
        (["--topology", "cpu:8"], ["name the script to plan"]),
        (["no/such.py", "--topology", "cpu:8"], ["no/such.py: there is no such script"]),
        (["SCRIPT"], ["--topology is missing", "v5e:16x16"]),
        (["SCRIPT", "--topology", "v5q:4x4"], ["did you mean v5"]),
        (["SCRIPT", "--topology", "cpu:8", "--tokens", "-1"], ["--tokens -1.0"]),
        (["SCRIPT", "--topology", "cpu:8", "--finalists", "0"], ["--finalists 0"]),
    ],
)
def test_bad_flags_are_one_line(argv, parts):
    script = str(ROOT / "experiments/pretrain.py")
    with pytest.raises(InputError) as error:
        command.read([script if word == "SCRIPT" else word for word in argv])
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--mesh", "fsdp=3"], "--mesh fsdp=3 wants 3 devices, there are 8"),
        (["--mesh", "tensor=8"], "the mesh does not divide the model"),
        (["--batch-size", "3"], "3 rows a step do not divide over 8 devices"),
        (["--model", "no/such/model.json"], "no/such/model.json"),
        (["--loss", "sigmoid"], "compares answers"),
    ],
)
def test_what_a_run_refuses_a_plan_refuses(capsys, flags, part):
    with pytest.raises(SystemExit) as stop:
        planned(capsys, "pretrain", *TINY, *flags)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert part in err
    assert len(err.splitlines()) == 1


LOOP = """
import jax, optax
from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses import resolve
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import describe_model
from jaxllm.train.setup import init_state, prepare
model = describe_model(PRESETS["tiny"])
step, layout = prepare(model, resolve("cross_entropy"), optax.sgd(0.1), make_mesh())
"""


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("open('ran', 'w')\n", (), "own.py imports nothing of jaxllm, so it never called"),
        ("import jaxllm\n", (), "own.py ended and never called"),
        (LOOP + "init_state(model, optax.sgd(0.1), layout)\n", (), "own.py makes a model's parameters without"),
        (LOOP + "step(layout.like, None)\n", (), "own.py makes a step without"),
        ("import time, jaxllm\ntime.sleep(60)\n", ("--within", "0.5"), "never called jaxllm.train.fit.fit.* 0.5 s"),
    ],
    ids=["no jaxllm", "ends", "parameters", "steps", "time"],
)
def test_a_script_that_never_calls_fit(capsys, tmp_path, text, flags, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        planned(capsys, str(tmp_path / "own.py"), *flags)
    assert len(str(error.value).splitlines()) == 1


def test_a_script_reaches_fit_by_a_file_beside_it(capsys, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "training.py").write_text(OWN)
    (given / "start.py").write_text("import training\n")
    assert planned(capsys, str(given / "start.py"))["tokens"] == 8 * 32
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    shutil.rmtree(given / "__pycache__", ignore_errors=True)
    sys.modules.pop("training", None)


def test_pmap_is_planned_and_measured_as_data_parallel(capsys):
    flags = ("--strategy", "pmap", "--measure")
    over, jitted = planned(capsys, "pretrain", *TINY, *flags), preset(capsys, "pretrain")
    same = ("argument_bytes", "parameter_bytes", "optimizer_bytes", "batch_bytes", "model_flops", "mesh", "tokens")
    assert {name: over[name] for name in same} == {name: jitted[name] for name in same}
    assert over["hardware_flops"] == pytest.approx(jitted["hardware_flops"], rel=0.01)
    summed = [one for one in over["collectives"] if one["axis"] == "data" and one["kind"] == "all-reduce"]
    assert sum(one["bytes"] for one in summed) == pytest.approx(2 * 7 / 8 * over["parameter_bytes"], rel=0.05)
    assert over["measured"]["step_seconds"] > 0


def test_a_summary_is_one_line(capsys):
    command.main(command.read([str(ROOT / "experiments/pretrain.py"), "--topology", "cpu:8", "--summary", *TINY]))
    assert re.fullmatch(r"cpu:8: [\d.]+ MiB a device, of a program for CPUs\n", capsys.readouterr().out)


def test_flags_of_the_command_stand_anywhere():
    own, rest = command.separate(["a.py", "--json", "--model", "x", "--topology=cpu:8", "--tokens", "1e9", "--help"])
    assert own == ["--json", "--topology=cpu:8", "--tokens", "1e9"]
    assert rest == ["a.py", "--model", "x", "--help"]


def test_text_and_measurement(capsys):
    flags = ["--topology", "cpu:1", "--measure", "--tokens", "1e6", *TINY]
    command.main(command.read([str(ROOT / "experiments/pretrain.py"), *flags]))
    out = capsys.readouterr().out
    for part in ("memory of each device", "largest buffers", "model FLOPs", "hardware FLOPs", "a stand-in",
                 "10 steps on this machine", "predicted       measured", "--max-length 64 and"):  # fmt: skip
        assert part in out
    assert jax.device_count() == 8


def test_search_compares_what_it_compiled(capsys):
    found = planned(capsys, "pretrain", *TINY, "--search", "--finalists", "2")
    assert found["tried"] > 10
    assert len(found["candidates"]) == 2
    for one in found["candidates"]:
        assert one["fits"]
        assert one["plan"].keys() >= KEYS
        sizes = [int(part.partition("=")[2]) for part in one["mesh"].split(",")]
        assert math.prod(sizes) == 8


@pytest.mark.slow
def test_as_a_process_it_makes_its_own_devices_and_writes_nothing(tmp_path):
    environ = {name: x for name, x in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    words = [
        sys.executable,
        "-m",
        "jaxllm",
        "plan",
        str(ROOT / "experiments/pretrain.py"),
        "--topology",
        "cpu:16",
        "--json",
    ]
    run = subprocess.run([*words, *TINY, "--batch-size", "16"], capture_output=True, text=True, cwd=tmp_path,
                         env={**environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)})  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["devices"] == 16
    assert list(tmp_path.iterdir()) == []
