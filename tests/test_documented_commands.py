"""Every command that the documents name: its flags are the program's, and it runs as a new user would run it.

Each is known here in one of these ways; one that is not fails the test, with its file and line:

* it installs, or runs the tests: the first is how the environment of these tests is made;
* it hands another command to a pod or a cluster: that command's flags are checked, and the launcher prints its plan;
* it reads from the hub (HUB) or stands in NOT_RUN: its flags are checked;
* all else runs, shortened by the flags of SHORT, from a folder outside the clone, in an environment that the README's
  install line made, on the small data and runs of the fixture `world`: the first of each program as a process of its
  own, the others forked from one that has imported what they import.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT, Command, commands, commands_of
from forked import IMPORTED, Forks
from named_files import CAPITALS, FILES, LINKS, RUNS, link, write
from started import quick_flags

from jaxllm.models.decoder import PRESETS
from jaxllm.recipes.script import parse

COMMANDS = commands()

HUB = {
    "HuggingFaceFW/fineweb-edu:sample-10BT", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/smoltalk:everyday-conversations", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct",
    "bert-base-cased", "conll2003", "gpt2", "meta-llama/Llama-3.2-1B", "trl-lib/ultrafeedback_binarized",
    "roberta-base", "nyu-mll/glue:mrpc",
}  # fmt: skip
"""Names that the documents give of models and data sets on the hub."""

NOT_RUN = {
    r"benchmark\.py": "needs torch, of the extra `bench`, or takes minutes; its own test runs it",
    r"compare_losses\.py .*--losses grpo": "takes minutes; its own test runs it",
    r"accelerator_check\.py": "takes minutes; its own test runs it",
    r"padding\.py": "generates every embedded corpus and takes minutes",
    r"bench_tag\.py": "needs torch, of the extra `bench`",
    r"peers/": "needs torch, and no jaxllm",
    r"jaxllm plan .*--topology [^c]": "needs a compiler of the extra `plan`, which tests of plans run",
    r"bench_(compiled|attention)\.py --topology": "needs a compiler of the extra `plan`",
    r"kill_test\.py (full-disk|move|.*--processes)": "mounts a disk, or takes minutes",
}
"""Commands whose flags are checked and that are not run here."""

TINY = {"--model": "model.json", "--vocab-size": "300"}
SHORT: dict[str, tuple[dict[str, str], str]] = {
    "ner.py": ({"--dataset": "wnut17"}, "--steps 2 --vocab-size 300"),
    "classify.py": ({"--dataset": "reviews.csv"}, "--steps 2 --vocab-size 300"),
    "mlm.py": ({"--dataset": "books.jsonl"}, "--steps 2 --vocab-size 300"),
    "pretrain.py": ({**TINY, "--dataset": "books.jsonl"}, "--steps 2 --warmup 0 --sample-tokens 2"),
    "sft.py": ({**TINY, "--dataset": "chats.jsonl"}, "--steps 2 --samples 2 --sample-tokens 2"),
    "preference.py": ({**TINY, "--dataset": "pairs.jsonl"}, "--steps 2 --samples 2 --sample-tokens 2"),
    "reward.py": ({**TINY, "--dataset": "pairs.jsonl"}, "--steps 2"),
    "online.py": (
        {"--model": "runs/pretrain-1a2b3c4d", "--dataset": "questions.jsonl", "--reward": "numeric"},
        "--steps 2 --batch-size 2 --num-generations 2 --max-completion-length 4 --eval-prompts 2 --eval-generations 0",
    ),
    "three_stages.py": (
        {"--model": "path/to/llama", "--dataset": "instructions.jsonl"},
        "--sft-epochs 0.5 --preference-epochs 0.1 --questions 2 --answer-tokens 2 --max-length 64",
    ),
    "compare_losses.py": (
        {**TINY, "--dataset": "pairs.jsonl", "--losses": "sigmoid simpo"},
        "--seeds 0 1 --steps 2 --samples 2 --sample-tokens 2",
    ),
    "custom_loss.py": ({"--losses": "confident"}, ""),
    "matmul.py": ({"--shapes": "64x32x16"}, "--seconds 0.1"),
    "decode.py": ({}, "--tokens 2 --rounds 1"),
    "bench_compile.py": ({}, "--rounds 1 --depths 1 2"),
    "bench_dispatch.py": ({}, "--depth 1 --calls 5"),
    "bench_start.py": ({}, "--rounds 1"),
    "bench_attention.py": ({}, "--lengths 128 --heads 2 --kv-heads 1 --features 16 --dtype float32 --rounds 1"),
    "bench_prompts.py": ({}, "--prompt 32 --answer 8 --pairs 1 --width 64 --depth 1 --vocabulary 64 --rounds 1"),
    "bench_head.py": ({}, "--rounds 1 --rows 2 --length 32 --width 16 --vocab 500 --others 600"),
    "bench_long_rows.py": ({}, "--width 128 --vocabulary 64 --steps 1 --lengths 64 128"),
    "bench_dpo_memory.py": ({}, "--vocabulary 500 --width 16 --depth 1 --length 32"),
    "bench_corpus.py": ({}, "--gigabytes 0.002 --shards 2 --sample 50 --vocab-size 300"),
    "bench_compiled.py": (
        {"--topology": "cpu:2", "--mesh": "fsdp=2"}, "--model tiny --rows 2 --length 64 --what lora",
    ),
    "kill_test.py": ({}, "--trials 1 --work ../kill-test"),
    "verify-resume": ({**TINY, "--dataset": "books.jsonl"}, "--steps 120 --sample-tokens 0 --no-export"),
    "generate": ({}, "--max-tokens 4"),
    "plan": ({}, "--batch-size 8 --max-length 64"),
    "convert": ({}, ""), "tag": ({}, ""), "classify": ({}, ""), "losses": ({}, ""), "check-loss": ({}, ""),
}  # fmt: skip
"""How each program is made short: by flags where the command does not give them, and by flags in any case."""

DATA = (
    "model", "dataset", "eval_dataset", "tokenizer", "preferences", "source", "data", "predictions", "lora_from",
)  # fmt: skip
"""Fields of the configurations that name what is read."""


PEERS_ONLY = {
    "all-MiniLM-L6-v2", "train.jsonl", "tinyshakespeare.txt", "path/to/sft.json", "path/to/preference.json",
    "ner=WNUT17", "ner=MINILM", "ner=path/to/wnut17", "sft=path/to/sft.json",
    "pretrain=SHAKESPEARE", "sft=SFT", "preference=PREFERENCE", "reward=PREFERENCE", "mlm=SHAKESPEARE",
}  # fmt: skip
"""What is named by commands alone that are not run here."""


def plain(command: Command) -> list[str]:
    """Its words, with `python` whatever its path, without dots for more flags, and something for names in capitals."""
    words = [re.sub(r"^\.venv/bin/", "", word) for word in command.words if word != "..."]
    return [re.sub(rf"^({'|'.join(CAPITALS)})(?=$|/)", lambda name: CAPITALS[name[1]], word) for word in words]


def program(words: list[str]) -> tuple[str, types.ModuleType | None, list[str]]:
    """Of words that begin with `python`: the program's name, its module if it has a Config, and its arguments."""
    match words[1:]:
        case ["-m", "jaxllm", name, *argv]:
            return name, importlib.import_module(f"jaxllm.cli.{name.replace('-', '_')}"), argv
        case [script, *argv] if script.startswith("experiments/") and (ROOT / script).is_file():
            name = script.removeprefix("experiments/")
            if name.startswith("peers/"):
                pytest.importorskip("trl" if "trl" in name else "torch")
            module = importlib.import_module(Path(name).stem)
            return name, module if hasattr(module, "Config") else None, argv
    raise AssertionError(f"nothing is known of the program {' '.join(words[:4])}")


def config_of(words: list[str]) -> Any:
    """The configuration that the words give the program. Raises InputError for flags that are not its own."""
    name, module, argv = program(words)
    if name == "custom_loss.py":  # its flags are made where it is run
        return tuple(argv)
    assert module is not None, f"{name} has no Config"
    with contextlib.chdir(ROOT):  # documents name files of the clone as from its folder
        if name == "plan":  # `read` wants the compiler
            return module.flags(argv)
        if name == "verify-resume":
            return module.read(argv)
        return parse(module.flags_of(argv) if name == "compare_losses.py" else module.Config, argv)


def named(words: list[str]) -> list[str]:
    """What the words name to be read: data, models, files of losses."""
    found = config_of(words)
    if program(words)[0] in ("verify-resume", "plan"):
        return named(["python", *found.command])
    losses = [one for one in several(found, "loss", "losses") if ".py:" in one]
    return [one for one in several(found, *DATA) if one not in OURS] + losses


def several(config: Any, *fields: str) -> list[str]:
    """The values of these fields, of those that hold several each."""
    values = [getattr(config, field, None) for field in fields]
    return [str(one) for x in values if x is not None for one in (x if isinstance(x, tuple) else (x,))]


OURS = ("", "builtin", "builtin-requests", "bpe", "char", "tiny", "small", *PRESETS)
"""What comes with the package."""


def is_known(value: str) -> bool:
    file = re.sub(r":[\w.]+$", "", value)
    in_clone = file.startswith("experiments/") and (ROOT / file).is_file()
    ours = any(file == name or file.startswith(f"{name}/") or name.startswith(f"{file}/") for name in FILES)
    return value in HUB or in_clone or ours or file in PEERS_ONLY


def is_run(words: list[str]) -> bool:
    """Whether a command runs here: one of python alone, that needs no hub and is not in NOT_RUN."""
    text = " ".join(words)
    others = words[0] != "python" or words[1:3] == ["-m", "pytest"] or words[1].startswith("tpu/")
    return not (others or HUB.intersection(words) or any(re.search(pattern, text) for pattern in NOT_RUN))


def kind(command: Command) -> str:
    """install, tests, launcher, checked, or run; its flags are checked. Fails for a command that is not known."""
    words = plain(command)
    match words:
        case ["python3", "-m", "venv", _] | ["pip", "install", "-q", "-e", _]:
            return "install"
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
            return "tests"
        case [("tpu/pod.sh" | "sbatch"), *_] | ["python", "tpu/submit.py", *_]:
            if "python" in words[1:]:
                kind(dataclasses.replace(command, words=tuple(words[words.index("python", 1) :])))
            return "launcher"
        case ["python", *_]:
            config_of(words)
            names = named(words)
            assert not (unknown := [x for x in names if not is_known(x)]), f"nothing is known of {', '.join(unknown)}"
            if not is_run(words):
                return "checked"
            assert not HUB.intersection(names), "a name on the hub is not a word of its own"
            assert program(words)[0] in SHORT, "SHORT does not say how it is made short"
            return "run"
    raise AssertionError("nothing is known of this command")


def short(command: Command) -> list[str]:
    """The words to run."""
    words = plain(command)
    where_none, more = SHORT[program(words)[0]]
    given = {word.partition("=")[0] for word in words}
    if "--config" in given:  # it has a model
        where_none = {}
    for flag, values in where_none.items():
        if flag not in given and not (flag == "--vocab-size" and "--model" in given):
            words += [flag, *values.split()]
    if program(words)[0] == "verify-resume":
        words[4:4] = ["--kills", "1"]  # of the processes that each kill starts, one
    return [*words, *more.split()]


RUNNABLE = [command for command in COMMANDS if is_run(plain(command))]


def test_commands_are_found_where_documents_have_them():
    text = "a\n```bash\npython a.py \\\n    --b 'c d'  # why\npip x && python e.py\n```\n    python not.py\n"
    found = [(one.line, one.words) for one in commands_of("x.md", text)]
    assert found == [(3, ("python", "a.py", "--b", "c d")), (5, ("pip", "x")), (5, ("python", "e.py"))]
    text = '"""First.\n\n    python a.py \\\n        --b\n\nMore `python c.py`.\n"""\nx = """\n    python d.py\n"""\n'
    assert [(one.line, one.words) for one in commands_of("x.py", text)] == [(3, ("python", "a.py", "--b"))]
    table = "| s | command | t |\n|---|---|---|\n| x | `python a.py --b 1`, `... --c`; with `--d` (`--e`) | `f` |\n"
    found = [one.words[1:] for one in commands_of("x.md", table)]
    assert found == [("a.py", "--b", "1"), ("a.py", "--c"), ("a.py", "--b", "1", "--d"), ("a.py", "--b", "1", "--e")]
    files = {one.file for one in COMMANDS}
    assert {"README.md", "experiments/README.md", "tpu/README.md", "experiments/three_stages.py"} <= files
    assert len(COMMANDS) > 100


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_known_and_its_flags_are_the_programs(command):
    try:
        kind(command)
    except Exception as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python experiments/sft.py --lerning-rate 1", "there is no flag --lerning-rate"),
        ("python experiments/nothing.py", "nothing is known of the program python experiments/nothing.py"),
        ("python experiments/sft.py --dataset unheard/of", "nothing is known of unheard/of"),
        ("python experiments/sft.py --dataset mine.jsonl", "nothing is known of mine.jsonl"),
        ("python experiments/preference.py --loss other.py:margin", "nothing is known of other.py:margin"),
        ("make install", "nothing is known of this command"),
        ("sbatch x.sbatch python experiments/sft.py --meshes 1", "there is no flag --meshes"),
    ],
)
def test_what_is_not_known_fails(text, message):
    with pytest.raises(Exception, match=re.escape(message)):
        kind(Command("x.md", 1, tuple(text.split())))


LAUNCHERS = [one for one in COMMANDS if one.words[1] in ("create", "tpu/submit.py")]
"""Those that need no pod; tests/tpu has the others."""


@pytest.mark.parametrize("command", LAUNCHERS, ids=str)
def test_a_launcher_says_what_it_would_do(command):
    first, *words = command.words
    more = ["--repo", "https://example.org/jaxllm.git"] if first == "python" else []
    at = words.index("--") if "--" in words else len(words)
    argv = [sys.executable if first == "python" else first, *words[:at], "--dry-run", *more, *words[at:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "first" in done.stdout


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> Path:
    """The environment that the README's install line makes: `.venv` of that line, elsewhere, and this clone for `.`."""
    venv = tmp_path_factory.mktemp("new") / ".venv"
    first, second = [one for one in COMMANDS if one.file == "README.md" and kind(one) == "install"][:2]
    python3 = sys.executable if not shutil.which("python3") else "python3"
    subprocess.run([python3, *first.words[1:-1], str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), *second.words[1:-1], str(ROOT)]
    lazily = {**os.environ, "PIP_NO_COMPILE": "1"}  # what is imported is compiled when it is, and little is
    done = subprocess.run(pip, capture_output=True, text=True, check=False, env=lazily)
    assert done.returncode == 0, done.stderr
    return venv


@dataclasses.dataclass
class Runner:
    """Runs commands with the python of an environment, as processes of their own or forked from one that is warm."""

    python: Path
    variables: dict[str, str]
    idle: queue.SimpleQueue[Forks]
    alone: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    """Held by those that share a folder of what they have run."""

    def run(self, folder: Path, words: list[str], *, forked: bool = True) -> str:
        """Runs a command in a folder; what went wrong, if anything."""
        assert words[0] == "python"
        variables = dict(self.variables)
        if "fsdp=8" in words and "verify-resume" not in words:
            variables["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
        with self.alone if "../kill-test" in words else contextlib.nullcontext():
            if forked:
                forks = self.idle.get()
                done = forks.run(words[1:], folder, {**variables, "JAXLLM_STARTED": "1"})
                self.idle.put(forks)
            else:
                argv = [str(self.python), *words[1:]]
                done = subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode or "Traceback" in done.stderr:
            return f"{' '.join(words)}\nexit status {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        return ""


@pytest.fixture(scope="session")
def runner(environment, tmp_path_factory) -> Iterator[Runner]:
    """Commands see the variables of a new user, but for the folder of caches; they are compiled in a hurry, with the
    programs of earlier runs, however small."""
    folder = tmp_path_factory.mktemp("documented")
    variables = {
        **{name: x for name, x in os.environ.items() if name not in ("PYTHONPATH", "JAXLLM_STARTED")},
        "XDG_CACHE_HOME": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": quick_flags(),
    }  # fmt: skip
    python = environment / "bin" / "python"
    forks = [Forks(python, IMPORTED, folder / f"forks-{i}", variables) for i in range(2)]
    runner = Runner(python, variables, queue.SimpleQueue())
    for one in forks:
        runner.idle.put(one)
    yield runner
    for one in forks:
        one.close()


@pytest.fixture(scope="session")
def world(runner, tmp_path_factory) -> Path:
    """A folder with all that commands name, and the clone's folder of scripts."""
    folder = tmp_path_factory.mktemp("commands") / "world"
    write(folder)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for name, text in RUNS.items():
        script, *flags = text.split()
        words = ["python", f"experiments/{script}", *flags, "--steps", "2", "--out", name]
        assert not (wrong := runner.run(folder, words)), wrong
    for name, target in LINKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / target)
    return folder


def place(world: Path, number: int, words: list[str]) -> Path:
    """A new folder beside the world with what is in it, of the other names those that the words name to be read."""
    folder = world.parent / f"command-{number}"
    read = words[:5] if words[1:4] == ["-m", "jaxllm", "convert"] else words
    others = {name for name in LINKS if any(re.search(rf"(^|=){name}($|/)", word) for word in read)}
    link(folder, world, {"experiments", *FILES} - LINKS.keys() | others)
    return folder


@pytest.fixture(scope="session")
def outcomes(request, runner, world):
    """What went wrong with each command that this session tests; two run at a time, equal ones once.

    The first of each program is a process of its own, as a shell starts it; the others are forked.
    """
    wanted = [
        item.callspec.params["command"] for item in request.session.items
        if getattr(item, "originalname", "") == "test_a_command_runs_as_a_new_user_would_run_it"
    ]  # fmt: skip
    started: dict[Any, concurrent.futures.Future[str]] = {}
    found = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for command in wanted:
            words = short(command)
            same = (program(words)[0], config_of(words))
            if same not in started:
                forked = same[0] in {name for name, _ in started}
                folder = place(world, len(started), words)
                started[same] = pool.submit(runner.run, folder, words, forked=forked)
            found[command] = started[same]
        yield found
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE, ids=str)
def test_a_command_runs_as_a_new_user_would_run_it(command, outcomes):
    assert not (wrong := outcomes[command].result()), f"{command}\n{wrong}"
