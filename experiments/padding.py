"""How much of what each stage computes on is tokens: training, evaluations and the prompts that are continued.

    python experiments/padding.py
    python experiments/padding.py --stages ner sft --dataset ner=path/to/wnut17 sft=path/to/sft.json

Each script runs as it is, at its default settings, up to where it would train; its batches are then made and counted
instead of computed on. Expected: experiments/README.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from jaxllm.evals import decode
from jaxllm.params import bind
from jaxllm.recipes.script import parse
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError, check_one_of

STAGES: dict[str, list[str]] = {
    "pretrain": [], "sft": [], "preference": ["--reference", "live"], "reward": [], "ner": [], "classify": [],
    "mlm": [],
}  # fmt: skip
"""The scripts, with flags that spare work that has nothing to do with padding."""

MOST = 200
"""Batches of training that are counted."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Counts the tokens and the padding of batches."""

    stages: tuple[str, ...] = tuple(STAGES)
    """Scripts whose batches are counted."""
    dataset: tuple[str, ...] = ()
    """STAGE=PATH of data in place of the script's own."""
    model: tuple[str, ...] = ()
    """STAGE=PATH of a model in place of the script's own."""


class Counted(Exception):
    """What was to be counted is."""


@dataclasses.dataclass
class Counter:
    """Stands for the model in evaluations, and counts what it would be run on: [tokens, positions] by name."""

    graphdef: Any = None
    mesh: Any = None
    found: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    name: str = "training"

    @property
    def params(self) -> Any:
        """Shapes: nothing is computed."""
        return self.graphdef.abstract

    def add(self, batch: Any) -> None:
        """The positions of a batch."""
        segments_BT = getattr(batch, "batch", batch).segments_BT
        sums = self.found.setdefault(self.name, [0, 0])
        sums[0] += float(np.sum(np.asarray(segments_BT) > 0))
        sums[1] += np.size(segments_BT)

    def map(self, function: Any, batches: Iterable[Any]) -> Iterator[Any]:
        """Counts the batches of an evaluation, and says 1 to all that it asks."""
        shapes = None
        for batch in batches:
            self.add(batch)
            if shapes is None:
                shapes = jax.eval_shape(lambda params, x: function(bind(self.graphdef, params), x), self.params, batch)
            yield jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)


def count(stage: str, flags: Sequence[str]) -> dict[str, list[float]]:
    """[tokens, positions] of a script's batches, by what they are for."""
    module: Any = importlib.import_module(stage)
    counter = Counter()

    def fit(model: Any, *, data: Any, evals: Any, mesh: Any, **_: Any) -> NoReturn:
        counter.graphdef, counter.mesh = model.graphdef, mesh
        for step in range(min(data.plan.steps, MOST)):
            counter.add(data.batch(step))
        for name, evaluate in evals.items():
            counter.name = name
            with contextlib.suppress(Counted):
                evaluate(counter)
        raise Counted

    def pack(*arguments: Any, **named: Any) -> NoReturn:
        counter.name = "prompts"
        counter.add(packed(*arguments, **named).read)
        raise Counted

    before, packed = module.fit, decode.pack_prompts
    module.fit, decode.pack_prompts = fit, pack
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Counted):
            module.main(parse(module.Config, [*flags, "--out", folder, "--log-to", "none"]))
    finally:
        module.fit, decode.pack_prompts = before, packed
    return counter.found


def main(config: Config) -> None:
    """Counts and prints, stage by stage."""
    flags = {stage: [*own] for stage, own in STAGES.items()}
    for name in ("dataset", "model"):
        for text in getattr(config, name):
            stage, equals, value = text.partition("=")
            if not equals or stage not in STAGES:
                raise InputError(f"--{name} {text}: give STAGE=PATH, where STAGE is one of {', '.join(STAGES)}")
            flags[stage] += [f"--{name}", value]
    for stage in config.stages:
        check_one_of("--stages", stage, STAGES)
        for what, (tokens, positions) in count(stage, flags[stage]).items():
            print(f"{stage:<11} {what:<9} {tokens / positions:6.1%} of {positions:,.0f} positions", flush=True)


if __name__ == "__main__":
    run_script(main, Config)
