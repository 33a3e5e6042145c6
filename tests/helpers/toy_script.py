"""The toy as a script, for tests that start, kill and restart processes: quick to import and to compile."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for toy_run

from toy_run import corpus, dev_loss, toy

from jaxllm.distributed import processes
from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses.tokens import cross_entropy
from jaxllm.recipes.flags import Common, check, fit_arguments, optim_config
from jaxllm.recipes.script import run as run_script
from jaxllm.run.folder import open_run
from jaxllm.train.fit import fit
from jaxllm.types import RunError

processes.LOCAL_S = int(os.environ.get("TOY_LOCAL_S", processes.LOCAL_S))


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """A run of the toy."""

    steps: int = 12
    """Steps."""
    learning_rate: float = 0.05
    """Peak."""
    pause: float = 0.0
    """Seconds that each batch takes to come."""
    pause_at: str = ""
    """PROCESS:STEP:SECONDS, for one batch that takes longer."""
    fail_at: str = ""
    """PROCESS:STEP:HOW, for one that never comes: `error`, `run` or `exit`."""
    eval_pause: float = 0.0
    """Seconds that each batch of an evaluation takes."""


class Slow:
    """The corpus, whose batches take their time."""

    def __init__(self, config: Config):
        self.plan, self.config = (c := corpus()).plan, config
        self.fingerprint, self._iterate = c.fingerprint, c.iterate

    def iterate(self, start, stop, rows=None):
        import jax

        for step, batch in enumerate(self._iterate(start, stop, rows), start=start + 1):
            time.sleep(self.config.pause)
            here = [str(jax.process_index()), str(step)]
            if self.config.pause_at.split(":")[:2] == here:
                time.sleep(float(self.config.pause_at.split(":")[2]))
            if self.config.fail_at.split(":")[:2] == here:
                how = self.config.fail_at.split(":")[2]
                raise {"error": ZeroDivisionError("no batch"), "run": RunError("no batch"), "exit": SystemExit(3)}[how]
            yield batch


def main(config: Config) -> None:
    """Trains."""
    check(config)
    run = open_run("toy", config, config.out)
    mesh, data = make_mesh(config.mesh), Slow(config)

    def evaluate(runner):
        def slow(batches):
            for batch in batches:
                time.sleep(config.eval_pause)
                yield batch

        run_map = runner.map
        object.__setattr__(runner, "map", lambda fn, batches: run_map(fn, slow(batches)))
        return dev_loss(runner)

    fit(
        toy(), loss=cross_entropy, data=data, optimizer=optim_config(config), run=run, mesh=mesh,
        evals={"dev": evaluate}, **fit_arguments(config, data.plan),
    )  # fmt: skip
    print("done", flush=True)


if __name__ == "__main__":
    run_script(main, Config)
