"""The command lines that the documents name: in fenced blocks, tables of commands and docstrings of scripts."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "experiments/README.md", "tpu/README.md")),
    *sorted((ROOT / "experiments").rglob("*.py")),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line, its words as a shell would read them, and where it stands."""

    file: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {shlex.join(self.words)}"


def commands() -> list[Command]:
    """Those of all documents, in their order."""
    return [one for path in DOCUMENTS for one in commands_of(str(path.relative_to(ROOT)), path.read_text())]


def commands_of(file: str, text: str) -> list[Command]:
    """Those of one document: a script has them in its docstring, indented; Markdown in fences and tables."""
    if file.endswith(".py"):
        return list(_split(file, _joined(_indented(text))))
    return sorted([*_split(file, _joined(_fenced(text))), *_split(file, _tabled(text))], key=lambda one: one.line)


def _indented(source: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of the module's docstring that are indented."""
    first = ast.parse(source).body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines = source.splitlines()
        for number in range(first.lineno + 1, (first.end_lineno or 0) + 1):
            if lines[number - 1].startswith("    "):
                yield number, lines[number - 1].strip()


def _fenced(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of ```bash blocks."""
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("```"):
            inside = line == "```bash"
        elif inside and line.strip():
            yield number, line.strip()


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The same with continued lines made one, numbered by their first."""
    start, held = 0, ""
    for number, line in lines:
        start, held = (start, f"{held} {line}") if held else (number, line)
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield start, held
        held = ""


def _tabled(text: str) -> Iterator[tuple[int, str]]:
    """Numbered commands of tables that have a column `command` after others.

    Of several in a cell, `... --flags` begins as the first does, and `--flags` are the first's with more flags.
    """
    column = 0
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            column = 0
        elif "command" in cells[2:]:
            column = cells.index("command")
        elif column:
            whole = ""
            for code in re.findall(r"`([^`]+)`", cells[column]):
                if code.startswith("..."):
                    code = " ".join([*whole.split()[:2], code.removeprefix("...")])
                elif code.startswith("--"):
                    code = f"{whole} {code}"
                else:
                    whole = code
                yield number, code


def _split(file: str, lines: Iterator[tuple[int, str]]) -> Iterator[Command]:
    """Each command of lines that may hold several, joined by &&, and comments."""
    for number, line in lines:
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield Command(file, number, tuple(words))
                words = []
