"""Flags in, one line out for what is wrong with them."""

import dataclasses
import gc
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from forked import IMPORTED, Forks

from jaxllm import planning
from jaxllm.__main__ import COMMANDS
from jaxllm.data.packing import make_plan
from jaxllm.recipes import standin
from jaxllm.recipes.flags import Common, check, fit_arguments, optim_config, total_steps
from jaxllm.recipes.losses import loss_arguments
from jaxllm.recipes.script import input_errors, parse, run
from jaxllm.run.folder import open_run, start_run
from jaxllm.train.optim import OptimConfig
from jaxllm.types import InputError

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """A script of some kind."""

    learning_rate: float = 0.25
    """Peak."""
    head_learning_rate: float | None = None
    """The head's."""


def test_flags_become_fields():
    argv = ["--learning-rate", "1e-3", "--freeze", "embeddings.*", "!classifier.*", "--no-pack",
            "--loss-args", "beta=0.2", "--head-learning-rate=0.5", "--steps", "7"]  # fmt: skip
    config = parse(Config, argv)
    changed = {"learning_rate": 1e-3, "freeze": ("embeddings.*", "!classifier.*"), "pack": False,
               "loss_args": ("beta=0.2",), "head_learning_rate": 0.5, "steps": 7}  # fmt: skip
    assert config == dataclasses.replace(Config(), **changed)
    assert parse(Config, []) == Config()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--learning-rat", "0.1"], ["there is no flag --learning-rat;", "did you mean --learning-rate?"]),
        (["--batch_siz", "1"], ["there is no flag --batch", "did you mean --batch-size?"]),
        (["--zzzzzz"], ["there is no flag --zzzzzz"]),
        (["stray"], ["stray"]),
        (["--steps", "many"], ["Error parsing --steps: invalid literal for int() with base 10: 'many' (see --help)"]),
        (["--steps"], ["--steps"]),
        (["--learning-rate", "fast"], ["--learning-rate", "fast"]),
        (["--pack", "perhaps"], ["perhaps"]),
        (["--config", "no/such.json"], ["no/such.json: not a run's config.json"]),
    ],
)
def test_what_does_not_parse_is_one_line_that_names_it(argv, parts):
    with pytest.raises(InputError) as error:
        parse(Config, argv)
    text = str(error.value)
    assert "\n" not in text
    assert not re.search("[╭╰│─]|----", text)
    for part in parts:
        assert part in text, text


def test_help_lists_every_field_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Config, ["--help"], prog="script")
    assert not stop.value.code
    shown = " ".join(re.sub("[╭╰╮╯│─]", " ", capsys.readouterr().out).split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in shown
    for meaning in ("Peak. (default: 0.25)", "Length of the run in optimizer steps; 0 for as many as --epochs gives",
                    "Patterns of parameters that are not trained", "in Hugging Face's format to hf/"):  # fmt: skip
        assert meaning in shown
    assert "A script of some kind" in shown


@pytest.mark.parametrize("given", [["--config", "{}"], ["--config={}"]])
def test_config_starts_from_another_runs_and_flags_win(tmp_path, given):
    before = Config(learning_rate=0.5, freeze=("a.*", "b.*"), steps=3, pack=False, head_learning_rate=2.0, out="there")
    start_run(open_run("script", before, str(tmp_path)))
    path = str(tmp_path / "config.json")
    given = [part.format(path) for part in given]
    found = parse(Config, [*given, "--steps", "9", "--freeze", "c.*"])
    assert found == dataclasses.replace(before, steps=9, freeze=("c.*",), out="", config=path)
    assert parse(Config, [*given, "--pack"]).pack
    assert parse(Config, [*given, "--out", "here"]).out == "here"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a run's config.json (JSONDecodeError"), ("[1]", "not a run's config.json (TypeError"),
        ('{"x": 1}', "not a run's config.json (KeyError"), ('{"script": "a", "config": 3}', "not a run's config.json"),
        ('{"script": "a", "config": {"beta": 1, "steps": 3}}', "this script has no beta: is it another script's?"),
    ],
)  # fmt: skip
def test_a_config_file_that_is_none(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InputError) as error:
        parse(Config, ["--config", str(tmp_path / "c.json")])
    assert message in str(error.value)


def test_a_loss_that_is_not_finite_is_one_line_and_status_1(capsys):
    with pytest.raises(SystemExit) as stop, input_errors():
        raise FloatingPointError("step 7 is not finite")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: step 7 is not finite\n"


def test_bad_input_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setenv("JAXLLM_STARTED", "1")  # stay in this process
    with pytest.raises(SystemExit) as stop, input_errors():
        raise InputError("several\nlines   here")
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: several lines here\n")
    seen = []
    run(seen.append, Config, ["--steps", "4"])
    assert seen == [Config(steps=4)]
    for argv, main in (
        (["--stepz", "4"], seen.append), (["--steps", "4"], lambda config: check(Config(dtype="float8"))),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            run(main, Config, argv)
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert len(seen) == 1
    with pytest.raises(ZeroDivisionError):  # a bug is no bad input: it keeps its traceback, and status 1
        run(lambda config: 1 / 0, Config, [])


def test_a_process_ends_so_too():
    code = "from jaxllm.recipes.flags import Common, check\nfrom jaxllm.recipes.script import run\nrun(check, Common)\n"
    environment = {k: x for k, x in os.environ.items() if k != "JAXLLM_STARTED"}
    good, bad = (
        subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, check=False
        )
        for argv in (["--mesh", "data=8"], ["--remat", "some"])
    )
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "error: --remat some: give one of none, dots, dots_no_batch, attention, mlp, full, offload\n"


def test_a_flag_asks_for_the_same_bits_every_time():
    code = (
        "import os, jax\nfrom jaxllm.recipes.flags import Common\nfrom jaxllm.recipes.script import run\n"
        "run(lambda config: print(os.environ['XLA_FLAGS'], len(jax.devices())), Common)\n"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAXLLM_STARTED": "1"}
    asked, not_asked = (
        subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, check=True)
        for argv in (["--deterministic"], [])
    )
    before = environment["XLA_FLAGS"]
    assert asked.stdout == f"{before} --xla_gpu_deterministic_ops=true 2\n"
    assert not_asked.stdout == f"{before} 2\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "--optimizer sgd: give one of"), ({"dtype": "fp8"}, "--dtype fp8: give one of float32"),
        ({"strategy": "pjit"}, "--strategy pjit: give one of jit, pmap"), ({"on_nan": "go"}, "--on-nan go"),
        ({"remat": "x"}, "--remat x"), ({"export_dtype": "int8"}, "--export-dtype int8: give one of float32"),
        ({"log_to": ("none", "tensorbord")}, "--log-to tensorbord"), ({"batch_size": 0}, "--batch-size 0: at least 1"),
        ({"microbatches": 0}, "--microbatches 0"), ({"keep": 0}, "--keep 0"), ({"max_length": -1}, "--max-length -1"),
        ({"log_every": 0}, "--log-every 0"), ({"steps": -1}, "--steps -1: give a finite number, 0 or more"),
        ({"learning_rate": -0.1}, "--learning-rate -0.1"),
        ({"eval_every": "epochs"}, "--eval-every epochs: give a number"),
        ({"checkpoint_every": "-3"}, "--checkpoint-every -3"), ({"warmup": -1.0}, "--warmup -1.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"), ({"epochs": float("inf")}, "--epochs inf"),
    ],
)  # fmt: skip
def test_what_common_flags_cannot_be(changes, message):
    with pytest.raises(InputError) as error:
        check(dataclasses.replace(Config(), **changes))
    assert message in str(error.value)
    check(Config())


def test_common_flags_reach_fit_and_the_optimizer():
    plan = make_plan([5] * 100, batch_size=8)
    assert plan.steps == 13
    assert total_steps(Config(epochs=2.0), plan) == 26
    assert total_steps(Config(epochs=0.01), plan) == 1
    assert total_steps(Config(epochs=2.0, steps=5), plan) == 5
    found = fit_arguments(Config(eval_every="7", checkpoint_every="epoch", best="dev/f1:max", keep=4, seed=9), plan)
    assert found["eval_every"] == 7
    assert found["checkpoint_every"] == 13
    assert (found["best"], found["keep"], found["seed"], found["steps"]) == ("dev/f1:max", 4, 9, 39)
    assert fit_arguments(Config(), plan)["best"] is None
    config = Config(
        learning_rate=0.3, warmup=0.1, freeze=("a",), head_learning_rate=0.7, schedule="wsd", max_grad_norm=2.0
    )
    expected = OptimConfig(learning_rate=0.3, warmup=0.1, freeze=("a",), head_learning_rate=0.7, schedule="wsd",
                           max_grad_norm=2.0)  # fmt: skip
    assert optim_config(config) == expected
    assert optim_config(Config(weight_decay=0.5), beta2=0.95) == OptimConfig(
        learning_rate=0.25, weight_decay=0.5, beta2=0.95
    )


def test_every_flag_of_the_optimizer_has_the_optimizers_meaning():
    ours = {field.name: field.default for field in dataclasses.fields(Common)}
    theirs = {field.name: field.default for field in dataclasses.fields(OptimConfig)}
    shared = ours.keys() & theirs.keys()
    assert {"learning_rate", "schedule", "warmup", "weight_decay", "max_grad_norm", "freeze"} <= shared
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_the_names_of_a_run_at_wandb_reach_fit():
    plan = make_plan([5] * 100, batch_size=8)
    assert fit_arguments(Config(), plan)["wandb"] == {"project": None, "entity": None, "name": None, "tags": None}
    argv = ["--wandb-project", "p", "--wandb-entity", "e", "--wandb-name", "n", "--wandb-tags", "a", "b"]
    config = parse(Config, argv)
    expected = {"project": "p", "entity": "e", "name": "n", "tags": ("a", "b")}
    assert fit_arguments(config, plan)["wandb"] == expected


def test_loss_arguments():
    assert loss_arguments(("beta=0.2", "name=a=b")) == {"beta": "0.2", "name": "a=b"}
    with pytest.raises(InputError, match="--loss-args beta: give NAME=VALUE"):
        loss_arguments(("beta",))


def unread(*argv):
    """Status and stderr of a command whose output nobody reads, as behind `| head -1` when head has its line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *argv]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "print('short: held back until the end')", "print('x' * 100_000)",
        "from rich.console import Console; Console().print('x\\n' * 50_000)",  # one long word takes rich minutes
    ],
)  # fmt: skip
def test_output_that_nobody_reads_ends_a_command_quietly(body):
    code = (
        f"import sys\nfrom jaxllm.recipes.script import input_errors\nwith input_errors():\n    print(1)\n    {body}\n"
    )
    assert unread("-c", code) == (1, "")


def test_a_pipe_that_breaks_elsewhere_keeps_its_traceback():
    code = (
        "import os\nfrom jaxllm.recipes.script import input_errors\nr, w = os.pipe()\nos.close(r)\n"
        "with input_errors():\n    print(1)\n    os.write(w, b'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*.py") if "__main__" in path.read_text()
)
UNREAD = {
    **{script: [script, "--help"] for script in SCRIPTS},
    **{name: ["-m", "jaxllm", name, "--help"] for name in COMMANDS},
    "launch": ["-m", "jaxllm.launch", "--help"], "python -m jaxllm": ["-m", "jaxllm"],
    "the table of losses": ["-m", "jaxllm", "losses"],
}  # fmt: skip


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Commands are forked from a process that has imported what they import; scripts are processes of their own in
    tests/test_documented_commands.py."""
    made = Forks(Path(sys.executable), IMPORTED, tmp_path_factory.mktemp("forks") / "here", dict(os.environ))
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", UNREAD)
def test_help_that_nobody_reads(case, forks):
    done = forks.run(UNREAD[case], ROOT, {**os.environ, "JAXLLM_STARTED": "1"}, read=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_versions_are_printed_by_scripts_and_the_commands(capsys):
    for argv in (["--version"], ["--steps", "3", "--version"]):
        with pytest.raises(SystemExit) as stop:
            parse(Config, argv)
        assert not stop.value.code
        lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert {"jaxllm", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "Python"} <= lines.keys()
        assert lines["jax"] == jax.__version__
        assert lines["Python"] == platform.python_version()
    result = subprocess.run([sys.executable, "-m", "jaxllm", "--version"], capture_output=True, text=True, check=True)
    assert dict(line.split() for line in result.stdout.splitlines()) == lines


def test_unknown_commands_are_named():
    result = subprocess.run(
        [sys.executable, "-m", "jaxllm", "tgg"], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no command 'tgg'; did you mean 'tag'")
    assert result.stderr.count("\n") == 1


def test_in_a_plan_too_the_garbage_collector_goes_on(monkeypatch):
    """A plan runs the script as `__main__`, whose first line has the collector wait."""
    monkeypatch.setattr(planning, "current", object)
    monkeypatch.setattr(standin, "without_files", lambda config, plan: config)
    seen = []
    gc.disable()
    try:
        run(lambda config: seen.append(gc.isenabled()), Config, [])
    finally:
        gc.enable()
    assert seen == [True]
