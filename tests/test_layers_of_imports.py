"""A file imports only from earlier layers, or without cycles inside its own."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("jaxllm.types", "jaxllm.axes"),
    ("jaxllm.params", "jaxllm.losses", "jaxllm.data"),
    ("jaxllm.models", "jaxllm.distributed"),
    ("jaxllm.hf", "jaxllm.run"),
    ("jaxllm.checkpoint",),
    ("jaxllm.train",),
    ("jaxllm.evals", "jaxllm.report_card", "jaxllm.plan"),
    ("jaxllm.recipes",),
    ("jaxllm.api",),
    ("jaxllm", "jaxllm.cli", "jaxllm.launch", "jaxllm.__main__"),
    ("experiments",),
)
"""Modules, or packages with all that is in them and not named itself, from the earliest to the latest."""


def layer(module: str) -> int:
    """The layer of a module: that of the longest name in LAYERS that it begins with."""
    found = [(len(name), i) for i, names in enumerate(LAYERS) for name in names
             if module == name or (name != "jaxllm" and module.startswith(name + "."))]  # fmt: skip
    assert found, f"{module} stands in no layer: give it one, here and in the design"
    return max(found)[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_of(path): path for folder in ("jaxllm", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(source: str) -> set[str]:
    """The modules of this project that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from a.b import c` is the module a.b.c if there is one.
            found |= {inner if (inner := f"{node.module}.{a.name}") in FILES else node.module for a in node.names}
    return {name for name in found if name.split(".")[0] in ("jaxllm", "experiments")}


GRAPH = {module: imports(path.read_text()) for module, path in FILES.items()}


def test_there_is_something_to_look_at():
    assert {"jaxllm.types", "jaxllm.train.fit", "jaxllm.models.encoder", "experiments.ner"} <= FILES.keys()
    assert "jaxllm.train.optim" in GRAPH["jaxllm.train.fit"]
    text = "def f():\n    from jaxllm.distributed import mesh as m\n    import jaxllm.hf.io\n    import jax"
    assert imports(text) == {"jaxllm.distributed.mesh", "jaxllm.hf.io"}


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_from_earlier_layers_or_its_own(module):
    later = {name for name in GRAPH[module] if layer(name) > layer(module)}
    assert not later, f"{module} (layer {layer(module)}) imports later {', '.join(sorted(later))}"


def test_there_are_no_cycles():
    list(graphlib.TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("jaxllm.data")])
def test_data_runs_no_jax(module):
    tree = ast.parse(FILES[module].read_text())
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] in ("jax", "flax", "optax")]
    assert not GRAPH[module] & {name for name in FILES if layer(name) and not name.startswith("jaxllm.data")}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("jaxllm.losses")])
def test_losses_know_no_model_and_no_data_format(module):
    assert not [name for name in GRAPH[module] if name.startswith(("jaxllm.models", "jaxllm.data", "jaxllm.train"))]
