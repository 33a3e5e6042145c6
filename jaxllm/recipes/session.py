"""What every training script does around its training: opens the run folder, prints a header, exports at the end."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxllm import hf
from jaxllm.checkpoint.store import newest_meta
from jaxllm.data.chat.templates import fix_date, writes_date
from jaxllm.data.packing import Plan, make_plan
from jaxllm.distributed import messages
from jaxllm.distributed.mesh import make_mesh, row_multiple
from jaxllm.losses import own_files
from jaxllm.models.backends import describe as describe_attention
from jaxllm.models.heads import trunk_of
from jaxllm.models.remat import check_remat
from jaxllm.params import count
from jaxllm.recipes import adapters
from jaxllm.recipes.flags import Common, check
from jaxllm.recipes.start import Start
from jaxllm.run.folder import Run, check_folder, moved, open_run, report
from jaxllm.run.inputs import DATA, encoding
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.fit import Fitted
from jaxllm.train.nonfinite import SKIPPED
from jaxllm.train.optim import frozen_of


@dataclasses.dataclass(frozen=True)
class Session:
    """One call of a script: its flags, run folder, mesh and terminal."""

    config: Common
    run: Run
    mesh: Mesh
    console: Console
    began: float
    """Seconds on the monotonic clock when the script began."""

    def plan(self, lengths: np.ndarray) -> Plan:
        """How examples of these lengths, in tokens, fill the rows of training; the same after a change of the mesh."""
        config, began = self.config, int(self.run.config["row_multiple"])
        return make_plan(
            lengths, batch_size=config.batch_size, multiple=row_multiple(self.mesh) * config.microbatches,
            pack=config.pack, seed=config.seed, first_multiple=began * config.microbatches,
        )  # fmt: skip

    def eval_plan(self, lengths: np.ndarray) -> Plan:
        """How examples of these lengths fill the rows of an evaluation."""
        size = min(self.config.eval_batch_size, len(lengths))
        return make_plan(lengths, batch_size=size, multiple=row_multiple(self.mesh))

    def finished(self, steps: int) -> bool:
        """Whether the run has been through `steps` steps; if so, prints that with its final numbers."""
        if messages.broadcast(str(self.run.finished(steps))) != "True":  # not every host may have the folder
            return False
        self.console.print(f"{self.run.folder} is finished ({steps} steps); give --steps for more, or another --out")
        for name, x in ((self.run.summary or {}).get("final") or {}).items():
            if _is_shown(name):
                self.console.print(f"  {name} {shown(x)}")
        return True

    def header(self, begin: Start, lines: Sequence[tuple[str, str]]) -> None:
        """Checks --freeze, then prints the run folder, the model with its notes, and `lines` of (word, text)."""
        frozen_of(begin.model.trained, self.config.freeze)  # before a reference computes
        parameters = count(begin.model.graphdef.abstract)
        self._line("run", str(self.run.folder))
        self._line("model", f"{self.config.model}, {parameters:,} parameters, on {describe_mesh(self.mesh)}")
        with jax.set_mesh(self.mesh):
            self._line("", describe_attention(trunk_of(begin.config), self.config.max_length))
        for note in begin.notes:
            self._line("", note)
        for word, text in lines:
            self._line(word, text)

    def _line(self, word: str, text: str) -> None:
        self.console.print(f"{word:<8} {text}", markup=False)

    def dated(self, begin: Start) -> Start:
        """`begin`, whose chat template writes the date on which the run began, and not today's, where it writes one."""
        fix_date(begin.tokenizer, datetime.datetime.fromisoformat(self.run.config["began"]))
        return begin

    def describing(self, begin: Start) -> Run:
        """The run with its model in config.json, so that its checkpoints can be converted before it ends."""
        described = hf.config_json(begin.config, begin.tokenizer, begin.source, begin.tokens)
        more = {
            "model": described, "tokenizer": str(begin.tokenizer.name_or_path), "encoding": encoding(begin.tokenizer),
            "dated": writes_date(begin.tokenizer.chat_template),
        }  # fmt: skip
        return dataclasses.replace(self.run, config={**self.run.config, **more})

    def finish(
        self, begin: Start, fitted: Fitted, steps: int, finals: Mapping[str, float] | None = None, **summary: Any
    ) -> None:
        """Exports, draws report.png and writes summary.json.

        finals: final numbers. Where none of them is of `dev/`, those of the dev evaluation at the step that is kept are
        added. summary: more entries of summary.json.
        """
        config = self.config
        chosen = {k: x for line in fitted.log if line["step"] == fitted.position for k, x in line.items()}
        finals = dict(finals or {})
        if not any(name.startswith("dev/") for name in finals):
            finals = {name: x for name, x in chosen.items() if name.startswith("dev/")} | finals
            self.console.print(f"\nstep {fitted.position}")
            for name, x in finals.items():
                self.console.print(f"  {name} {shown(x)}")
        if config.export:
            script = self.run.config["script"]
            if adapters.write(self.run.folder / "adapter", begin, fitted.model.params):
                self.console.print(f"for peft: {self.run.folder / 'adapter'}")
            params = adapters.merge(begin.model, fitted.model.params)
            hf.export(
                self.run.folder / "hf", params, begin.config, begin.tokenizer,
                source=begin.source, dtype=config.export_dtype or None, card=card(script, config, finals),
                tokens=begin.tokens,
            )  # fmt: skip
            self.console.print(f"for transformers: {self.run.folder / 'hf'}")
        report(self.run.folder, summary.get("confusion"))
        self.run.write_summary({
            "finished": True, "steps": steps, "best_step": fitted.position, "final": dict(finals),
            "last": {k: x for line in fitted.log for k, x in line.items()}, "best": chosen,
            "skipped": len(read_jsonl(self.run.folder / SKIPPED)),
            "compile_s": fitted.compile_s, "wall_s": time.monotonic() - self.began, **fitted.used,
            **summary,
        })  # fmt: skip
        wall = time.monotonic() - self.began
        self.console.print(f"curves: {self.run.folder / 'report.png'}   all of it: {wall:.0f} s")


def open_session(script: str, config: Common) -> Session:
    """Checks the common flags, finds or names the run folder and makes the mesh; writes nothing. Raises InputError."""
    began = time.monotonic()
    check(config)
    if config.checkpoints and "://" not in config.checkpoints:
        check_folder(Path(config.checkpoints), "--checkpoints")
    functions = {name: getattr(config, name, None) or "" for name in ("loss", "reward")}
    own = {k: x for name, spec in functions.items() for k, x in own_files.texts(spec, f"--{name}").items()}
    run = open_run(script, config, config.out, own)
    mesh, written = make_mesh(config.mesh), _written(run, config.checkpoints)
    check_remat(config.remat, mesh.local_devices)
    multiple = written.get("row_multiple", row_multiple(mesh))
    now = messages.broadcast(datetime.datetime.now().isoformat(timespec="seconds"))
    run = dataclasses.replace(run, config={**run.config, "row_multiple": multiple, "began": written.get("began", now)})
    console = Console(soft_wrap=True, highlight=False, quiet="none" in config.log_to or messages.index() > 0)
    for name in DATA:
        if moved(written, run.config, name):
            there, here = (_words(config["config"][name]) for config in (written, run.config))
            console.print(f"--{name.replace('_', '-')} {here} has the contents of {there}, with which the run began",
                          markup=False)  # fmt: skip
    return Session(config, run, mesh, console, began)


def _words(given: str | Sequence[str]) -> str:
    """The value of a flag as it is typed."""
    return given if isinstance(given, str) else " ".join(given)


def _written(run: Run, checkpoints: str) -> dict[str, Any]:
    """The run's config.json, or its copy in the newest checkpoint where the run folder was lost."""
    path = run.folder / "config.json"
    written = json.loads(messages.broadcast(path.read_text() if messages.index() == 0 and path.is_file() else "{}"))
    return written or (newest_meta(checkpoints).get("run", {}) if checkpoints else {})


def describe_mesh(mesh: Mesh) -> str:
    """The devices and the mesh axes longer than 1, as in "8 x cpu (fsdp 8)"."""
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    device = mesh.devices.flat[0].device_kind
    return f"{mesh.size} x {device}" + (f" ({axes})" if axes else "")


USAGE = {
    "classify": '```python\ntransformers.pipeline("text-classification", model=FOLDER, top_k=None)\n```\n\n',
    "ner": "Whole words are labelled by their first sub-word, as in training:\n\n```python\n"
    'transformers.pipeline("token-classification", model=FOLDER, aggregation_strategy="first")\n```\n\n',
}
"""How to use the export of a script, for its model card."""


def card(script: str, config: Any, numbers: Mapping[str, float]) -> str:
    """The model card of a run in Markdown: its final numbers and its flags."""
    rows = "\n".join(f"| {name} | {shown(x)} |" for name, x in numbers.items() if _is_shown(name))
    flags = json.dumps(dataclasses.asdict(config), indent=2)
    opening = f"Trained by `experiments/{script}.py` of jaxllm.\n\n{USAGE.get(script, '')}"
    return f"{opening}| | |\n|---|---|\n{rows}\n\n```json\n{flags}\n```\n"


def shown(x: float | None) -> str:
    """A number as text. x: None where it is not finite, as in the run's JSON files."""
    return "not finite" if x is None else f"{x:.4f}"


def _is_shown(name: str) -> bool:
    """Whether a number is a main result of an evaluation, and not a part, as the F1 of one kind of entity is."""
    return name.count("/") == 1 or "/rewards/" in name
