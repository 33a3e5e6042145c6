"""Tables of the fields of a dataclass, read from the docstrings that stand below the fields."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence

HEADER = ("field", "axes", "dtype", "unit", "meaning")
PATTERN = re.compile(r"(?P<dtype>[^,.]+)(?:, (?P<unit>[^.]+))?\. (?P<meaning>.+)\.", re.DOTALL)
"""How a field is described: "float32, nats. The log-probability of ..."."""


def fields(cls: type) -> Iterator[tuple[str, ...]]:
    """(name, axes, dtype, unit, meaning) of each described field and property, in the order of the source."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            yield _row(node.target.id, ast.literal_eval(after.value))
        elif isinstance(node, ast.FunctionDef) and "property" in map(ast.unparse, node.decorator_list):
            yield _row(node.name, ast.get_docstring(node) or "")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of fields as a table in Markdown, its columns aligned."""
    lines: list[Sequence[str]] = [HEADER, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER) - 1)]
    lines.insert(1, tuple("-" * width for width in [*widths, 3]))
    return "\n".join(f"| {' | '.join(map(str.ljust, line, [*widths, 0]))} |" for line in lines)


def _row(name: str, doc: str) -> tuple[str, ...]:
    found = PATTERN.fullmatch(" ".join(doc.split()))
    assert found, f"{name}: describe it as 'dtype, unit. Meaning.'"
    letters = re.search(r"_([A-Z]+)$", name)
    axes = f"[{', '.join(letters[1])}]" if letters else ""
    return name, axes, found["dtype"], found["unit"] or "", found["meaning"]
