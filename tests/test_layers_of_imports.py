"""A file imports only from earlier layers, or without cycles inside its own."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("jaxllm.types", "jaxllm.axes", "jaxllm.planning", "jaxllm.accelerators", "jaxllm.allocator"),
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


SCRIPTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}
SHARED = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
"""Folders of the scripts whose modules they import."""


def whole(name: str, folder: str) -> str:
    """The module that a name means in a file of a folder: scripts import one another by their bare names."""
    inside = folder == "experiments" and name.split(".")[0] in SCRIPTS | SHARED
    return f"experiments.{name}" if inside else name


def imports(source: str, folder: str = "jaxllm") -> set[str]:
    """The modules of this project that a file of a folder imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {whole(alias.name, folder) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from a.b import c` is the module a.b.c if there is one.
            outer = whole(node.module, folder)
            found |= {inner if (inner := f"{outer}.{a.name}") in FILES else outer for a in node.names}
    return {name for name in found if name.split(".")[0] in ("jaxllm", "experiments")}


GRAPH = {module: imports(path.read_text(), module.split(".")[0]) for module, path in FILES.items()}


def test_there_is_something_to_look_at():
    assert {"jaxllm.types", "jaxllm.train.fit", "jaxllm.models.encoder", "experiments.ner"} <= FILES.keys()
    assert "jaxllm.train.optim" in GRAPH["jaxllm.train.fit"]
    text = "def f():\n    from jaxllm.distributed import mesh as m\n    import jaxllm.hf.io\n    import jax"
    assert imports(text) == {"jaxllm.distributed.mesh", "jaxllm.hf.io"}
    assert imports("import sft\nfrom ner import main", "experiments") == {"experiments.sft", "experiments.ner"}
    assert imports("import sft") == set()
    assert "experiments.preference" in GRAPH["experiments.compare_losses"]
    assert {"experiments.workloads.tuning", "experiments.workloads.work"} <= GRAPH["experiments.benchmark"]


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


def taken(source: str) -> set[str]:
    """What a script takes from other scripts of its folder and from the commands of jaxllm.cli."""
    tree, found, modules = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname or a.name for a in node.names if a.name in RUNNABLE}
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxllm.cli":
            modules |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module in RUNNABLE or node.module.startswith("jaxllm.cli.")):
            found |= {a.name for a in node.names}
    return found | {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }  # fmt: skip


RUNNABLE = {name for name in SCRIPTS if "__main__" in (ROOT / "experiments" / f"{name}.py").read_text()}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_runs_others_and_takes_nothing_else_from_them(script):
    assert taken("import sft\nsft.main(sft.Config())\nfrom jaxllm.cli.tag import show") == {"main", "Config", "show"}
    more = taken((ROOT / "experiments" / f"{script}.py").read_text()) - {"Config", "main", "settle"}
    assert not more, f"{script}.py takes {', '.join(sorted(more))}: what is shared belongs in jaxllm/recipes or evals"


def test_no_test_loads_a_script_under_a_second_name():
    """Scripts import one another by bare names, and so do tests: as experiments.sft, sft would be loaded again."""
    for path in (ROOT / "tests").rglob("*.py"):
        names = {n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[0] == "experiments"], path
