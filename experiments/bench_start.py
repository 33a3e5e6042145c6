"""Where the time of a second start goes, from the command to the end of the first step, by line.

    python experiments/bench_start.py --script ner
    python experiments/bench_start.py --script sft --rounds 3

Starts the script on its embedded corpus, each time in a process of its own, and stops it after its first step. The
first start fills caches, the compiled programs among them, and is not counted. Expected: experiments/README.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from jaxllm.run.usage import age_s, cpu_s

IMPORTS = {"JAX": "jax", "Flax and Optax": "flax.nnx", "transformers": "transformers", "Orbax": "orbax.checkpoint"}
CALLS = {
    "parse": "reading the flags", "open_session": "setting up", "read_tagged": "reading the data",
    "read_dialogues": "reading the data", "start": "tokenizer and model", "start_chat": "tokenizer and model",
    "encode": "encoding", "examples_of": "encoding", "prepare": "layout on the devices",
    "restore_or_init": "initialising",
}  # fmt: skip
"""Functions that a script and `fit` call, and the line that their time counts to, less what they call of these."""
STEP = "the first step: tracing, its program from the cache, computing"
CHILD = "child"
"""The first argument of a process that this program starts."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures second starts."""

    script: str = "ner"
    """ner or sft."""
    rounds: int = 3
    """Starts that are measured; the median of each line is printed."""
    split: str = ""
    """The script's own --split, for less data; by default all."""


def main(config: Config) -> None:
    """Prints a line for each part of a start, with its seconds by the clock and of processor time."""
    from jaxllm.types import InputError  # imports JAX, which is measured in the other process

    if config.script not in ("ner", "sft") or config.rounds < 1:
        raise InputError(f"--script {config.script} --rounds {config.rounds}: give ner or sft, and at least 1")
    found: list[dict[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + config.rounds):
            words = [sys.executable, __file__, CHILD, config.script, "--out", f"{folder}/run{number}"]
            words += ["--split", config.split] if config.split else []
            done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
            if done.returncode:  # the script has said why
                sys.exit(done.returncode)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"second start of {config.script}.py, median of {config.rounds}: seconds, and of processor time")
    for line in found[1]:
        clock, processor = (statistics.median(one[line][i] for one in found[1:]) for i in (0, 1))
        print(f"{clock:6.2f} {processor:6.2f}  {line}")


def begin(script: str, *flags: str) -> None:
    """Runs a script to the end of its first step, and prints what each part took, as JSON."""
    spent = {"Python, and starting again for the allocator": [age_s(), cpu_s()]}

    @contextlib.contextmanager
    def timed(line: str) -> Iterator[None]:
        began, inside = (age_s(), cpu_s()), [sum(x[i] for x in spent.values()) for i in (0, 1)]
        try:
            yield
        finally:
            entry = spent.setdefault(line, [0.0, 0.0])
            for i, now in enumerate((age_s(), cpu_s())):
                entry[i] += now - began[i] - (sum(x[i] for x in spent.values()) - inside[i])

    def wrap(module: Any, name: str, line: str) -> None:
        call = getattr(module, name)

        def within(*given: Any, **named: Any) -> Any:
            with timed(line):
                return call(*given, **named)

        setattr(module, name, within)

    def stop(_: Any) -> None:
        raise SystemExit

    for name, module in IMPORTS.items():
        with timed(f"importing {name}"):
            importlib.import_module(module)
    with timed("importing the rest"):
        names = (script, "jaxllm.recipes.script", "jaxllm.train.fit", "jaxllm.data.tagging.examples")
        program, recipe, fit, tagging = map(importlib.import_module, names)
        fit.Clock.compiled = stop
    wrap(fit._Loop, "run", STEP)
    for module in (program, recipe, fit, tagging):
        for name, line in CALLS.items():
            if hasattr(module, name):
                wrap(module, name, line)
    try:
        with timed("all else"):
            recipe.run(program.main, program.Config, ["--steps", "1", "--log-to", "none", "--no-export", *flags])
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps({**spent, "all": [age_s(), cpu_s()]}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        from jaxllm.allocator import restart

        restart(__name__)
        begin(*sys.argv[2:])
    else:
        from jaxllm.recipes.script import run as run_script  # imports JAX, as above

        run_script(main, Config)
