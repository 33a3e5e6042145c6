"""Generating the embedded instructions and preferences: questions about Python's library, answered by its docstrings.

A question names a function with its parameters, or a class, and its module; the answer is the first paragraph of its
docstring. Modules that the embedded text corpus (stdlib.py) holds out for dev are held out here too, so no stage of
training sees an answer of dev. In preferences, the rejected answer belongs to a question of the other kind, function or
class.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxllm.data.builtin import stdlib

SHORTEST, LONGEST = 20, 240
"""The limits of an answer's length, in characters."""

_CLASS = "What is the class "
"""The beginning of a question about a class."""

_Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def sft(library: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Splits `train` and `dev` of rows with `question` and `answer`; about 5,000 and 300 of them.

    library: as in `stdlib.documents`, which raises InputError where there is none. No question and no answer occurs
    twice.
    """
    seen: set[str] = set()
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": []}
    documents = stdlib.documents(library)
    for split in ("dev", "train"):  # dev first: a question of both splits belongs to dev
        for name, text in documents[split].items():
            for question, answer in _asked(name, text):
                if not {question, answer} & seen:
                    seen |= {question, answer}
                    splits[split].append({"question": question, "answer": answer})
    return splits


def preference(library: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """The same questions with `prompt`, `chosen` and `rejected`, each a list of messages; about 7,200 and 450 rows.

    Each function is paired by a hash with a class of its split: both are asked about, and each answer is rejected for
    the other question. So every answer is rejected as often as chosen, and a model that ignores the question is right
    half of the time. A split without classes or without functions has no rows.
    """
    return {split: [*_paired(rows)] for split, rows in sft(library).items()}


def _paired(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    order = sorted(rows, key=lambda row: hashlib.sha256(row["question"].encode()).digest())
    classes = [row for row in order if row["question"].startswith(_CLASS)]
    functions = [row for row in order if not row["question"].startswith(_CLASS)]
    for function, other in zip(functions, itertools.cycle(classes), strict=False):
        for asked, wrong in ((function, other), (other, function)):
            yield {
                "prompt": [{"role": "user", "content": asked["question"]}],
                "chosen": [{"role": "assistant", "content": asked["answer"]}],
                "rejected": [{"role": "assistant", "content": wrong["answer"]}],
            }


def _asked(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The questions and answers of a file, in its order."""
    if not name.endswith(".py"):
        return
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # of another Python
        return
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for owner, node in _public(tree.body, ""):
        answer = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if SHORTEST <= len(answer) <= LONGEST:
            yield _question(module, owner, node), answer


def _public(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, _Node]]:
    """Functions and classes without a leading underscore, each with its outer class as a prefix, "Name."."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{owner}{node.name}.")


def _question(module: str, owner: str, node: _Node) -> str:
    if isinstance(node, ast.ClassDef):
        return f"{_CLASS}{owner}{node.name} of {module}?"
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    given = ", ".join(a for a in names if a not in ("self", "cls"))
    return f"What does {owner}{node.name}({given}) of {module} do?"
