"""A process that has imported what commands import, and forks a new one for each: `python forked.py MODULE...`.

What it forks differs from a process of its own in that alone: it runs the script or module as `__main__`, in the
folder, with the arguments and the environment it is given, and ends as Python ends. No device is there before it is.

Reads a line of JSON for each, with the arguments of `_begin`, and answers with a line: the exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMPORTED = (
    "matplotlib.pyplot", "jax", "flax.nnx", "optax", "orbax.checkpoint", "transformers", "datasets",
    "jaxllm.train.fit", "jaxllm.recipes.session", "jaxllm.evals.generate",
)  # fmt: skip
"""What nearly all commands import."""


class Forks:
    """The other end: starts that process with an environment's python."""

    def __init__(self, python: Path, modules: Sequence[str], folder: Path, environment: dict[str, str]):
        folder.mkdir()
        self._output = folder / "output.txt"
        words = [str(python), __file__, *modules]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True)

    def run(
        self, words: Sequence[str], folder: Path, environment: dict[str, str], *, read: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python WORDS...` in a folder; its stderr has what it said, stdout too.

        read: False for a stdout that nobody reads, as behind `| head -1` when head has its line.
        """
        asked = {
            "words": words, "folder": str(folder), "environment": environment, "output": str(self._output),
            "read": read,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks others is gone: {self._process.wait()}"
        said = self._output.read_text()
        return subprocess.CompletedProcess(list(words), int(answer), "", said)

    def close(self) -> None:
        self._process.communicate()


def _serve() -> dict[str, Any] | None:
    """Forks for each line that is read. Returns what was asked in each process that it forks, None in itself."""
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _begin(words: list[str], folder: str, environment: dict[str, str], output: str, read: bool) -> None:
    """Makes this process what `python WORDS...` in that folder would be, and runs what it would run."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    heard = said
    if not read:
        reader, heard = os.pipe()
        os.close(reader)
    for there, here in ((nothing, 0), (heard, 1), (said, 2)):
        os.dup2(there, here)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], ""
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with contextlib.suppress(ModuleNotFoundError):  # what a script asks for only where it is there
            importlib.import_module(name)
    if (asked := _serve()) is not None:
        _begin(**asked)
