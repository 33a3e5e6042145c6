"""The folder of a run: config.json, summary.json, report.png, and the rules by which a run continues in it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jaxllm.distributed import messages
from jaxllm.run.inputs import contents
from jaxllm.run.metrics import read_jsonl
from jaxllm.types import InputError

PACKAGES = ("jaxllm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def operational(default: Any) -> Any:
    """A config field that may change when a run continues, because it does not define the experiment."""
    if isinstance(default, tuple | str | int | float | bool | type(None)):
        return dataclasses.field(default=default, metadata={"operational": True})
    return dataclasses.field(default_factory=lambda: default, metadata={"operational": True})


def split_config(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a config as JSON values: those that define the experiment, and the operational ones."""
    defining: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        x = json.loads(json.dumps(getattr(config, field.name), default=str))
        (rest if field.metadata.get("operational") else defining)[field.name] = x
    return defining, rest


ADDED = ("split", "decode")
"""Fields that came after others were in use. Empty, they leave the name of a run's folder as it was."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run: its folder and what config.json says of it."""

    folder: Path
    config: Mapping[str, Any]
    defining: tuple[str, ...] = ()
    """Fields that define the experiment."""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The text of the user's files that define the experiment too, such as that of `--loss FILE.py:FUNCTION`, by name;
    copies of them are kept in files/, and config.json has their hashes."""

    @property
    def summary(self) -> dict[str, Any] | None:
        """summary.json, None before the run has ended."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finished(self, steps: int) -> bool:
        """Whether the run has ended, and made at least `steps` steps."""
        return bool((summary := self.summary) and summary.get("finished") and summary["steps"] >= steps)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json; only process 0 does."""
        if messages.index() == 0:
            write_json(self.folder / "summary.json", summary)


def open_run(script: str, config: Any, out: str | None, files: Mapping[str, str] | None = None) -> Run:
    """The run in a new folder, or in an existing one of the same experiment. Writes nothing.

    files: the text of the user's files that define the experiment, by name. Raises InputError that names each defining
    field, and each of these files, which differs from the folder's config.json. `steps` may differ.
    """
    defining, rest = split_config(config)
    hashed = {k: v for k, v in defining.items() if k != "steps" and (v or k not in ADDED)}
    text = json.dumps(hashed, sort_keys=True)
    folder = Path(out or f"runs/{script}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    full = {
        "script": script, "config": {**defining, **rest}, "contents": contents(config), "versions": versions(),
        "git": _git(),
    }  # fmt: skip
    if files:
        full["files"] = {name: hashlib.sha256(x.encode()).hexdigest() for name, x in files.items()}
    run = Run(folder, full, tuple(defining), files or {})
    path = folder / "config.json"
    if "://" in str(out or ""):
        raise InputError(f"--out {out}: give a folder; --checkpoints may be a bucket")
    if path.exists():
        if differs := differences(read_run(path), run):
            raise InputError(f"{folder} holds another experiment ({'; '.join(differs)}): give another --out")
    else:
        check_folder(folder)
    return run


def check_folder(folder: Path, flag: str = "--out") -> None:
    """Raises InputError, naming the flag, where a folder cannot be made because there is a file on its path."""
    if blocking := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise InputError(f"{flag} {folder}: {blocking} is a file: give a folder")


def differences(there: Mapping[str, Any], run: Run) -> list[str]:
    """In what another config.json is of another experiment: fields, and the user's files by their hashes.

    `steps` may differ, a field or file may be new, and data may lie elsewhere if its contents are the same.
    """
    here = run.config
    found = [f"script {there['script']!r} there, {here['script']!r} here"] if differ(there, here, "script") else []
    other, own = there.get("config", {}), here["config"]
    found += [
        f"{name} {other[name]!r} there, {own[name]!r} here"
        for name in run.defining
        if name != "steps" and differ(other, own, name) and not moved(there, here, name)
    ]
    other, own = there.get("files", {}), here.get("files", {})
    return found + [f"{name} changed since the run began" for name in own if differ(other, own, name)]


def moved(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> bool:
    """Whether a field names data under another path than in another config.json, with the same contents."""
    old, new = there.get("contents", {}), here.get("contents", {})
    return name in old and old[name] == new.get(name) and differ(there.get("config", {}), here["config"], name)


def differ(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> bool:
    """Whether both have a value of this name, and not the same."""
    return name in there and there[name] != here[name]


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The script and the fields of a run's config.json. Raises InputError for any other file."""
    there = read_run(path)
    return there["script"], dict(there["config"])


def read_run(path: Path) -> dict[str, Any]:
    """A run's config.json. Raises InputError for any other file."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        return {**there, "script": there["script"], "config": dict(there["config"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run's config.json ({type(error).__name__}: {error})") from None


def start_run(run: Run) -> None:
    """Writes config.json, from when on the folder belongs to this experiment, and files/; only process 0 does."""
    if messages.index() > 0:
        return
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        for name, text in run.files.items():
            (run.folder / "files").mkdir(exist_ok=True)
            copy = re.sub(r"[^\w.-]+", "-", name.removesuffix(".py")) + ".py"
            (run.folder / "files" / copy).write_text(text, encoding="utf-8")
        write_json(run.folder / "config.json", run.config)
    except OSError as error:
        raise InputError(f"--out {run.folder}: cannot write there ({error.strerror}); give another folder") from None


def write_json(path: Path, x: Any) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(x, indent=2) + "\n")
    os.replace(partial, path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file to write, which appears under its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def report(folder: Path, confusion: Mapping[str, Any] | None = None) -> None:
    """Draws the curves in metrics.jsonl as report.png; only process 0 does.

    confusion: split -> its confusion matrix, {"labels": names, "counts": rows of true labels}, of which the last is
    drawn if it has at most 20 labels.
    """
    if messages.index() > 0:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = read_jsonl(folder / "metrics.jsonl")
    names = list(dict.fromkeys(key for line in lines for key in line))
    matrix = list((confusion or {}).items())[-1:]
    matrix = [(split, found) for split, found in matrix if len(found["labels"]) <= 20]
    wanted = ("f1", "macro_f1", "pearson", "loss", "accuracy", "perplexity", "rewards/accuracies", "rewards/margins")
    evals = [name for name in names if name.partition("/")[2] in wanted]
    shown = [n for n in ("loss", "grad_norm", "learning_rate", "tokens_per_s") if n in names] + evals
    if not shown:
        return
    panels = len(shown) + len(matrix)
    columns = min(3, panels)
    rows = -(-panels // columns)
    size = (4.2 * columns, 2.8 * rows)
    # To make room for names of labels, everything is drawn twice.
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained" if matrix else None)
    if not matrix:
        sides = {"left": 0.6 / size[0], "right": 1 - 0.1 / size[0], "bottom": 0.45 / size[1], "top": 1 - 0.3 / size[1]}
        figure.subplots_adjust(**sides, wspace=0.2, hspace=0.4)
    for axis, (split, found) in zip(axes.flat[len(shown) :], matrix, strict=False):
        axis.imshow(found["counts"], cmap="Blues")
        axis.set_title(f"{split}: true label by predicted", fontsize=10)
        places = range(len(found["labels"]))
        axis.set_xticks(places, found["labels"], rotation=45, ha="right", fontsize=7)
        axis.set_yticks(places, found["labels"], fontsize=7)
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, shown, strict=False):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 20 else None, markersize=3, linewidth=1.2)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(folder / "report.png", dpi=110)
    plt.close(figure)


def versions() -> dict[str, str]:
    """The versions of the packages that decide a run's results."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _git() -> str | None:
    """The revision of the code, with a + if files differ from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
