"""A run compiles its train step and each evaluation once, however its batches differ in what they hold."""

import logging
import re

import jax
import numpy as np
from toy_run import Data, corpus, dev_loss, forward, go


def ragged_loss(runner):
    """On every batch of the corpus, of which no two hold as many tokens."""
    served = corpus()
    batches = [served.batch(i) for i in range(served.plan.steps)]
    assert len({int(np.sum(batch.segments_BT > 0)) for batch in batches}) > 1
    numbers = runner.map(forward, batches)
    return {"loss": float(np.mean([float(x) for x in numbers]))}


def test_one_compilation_of_the_step_and_of_the_evaluation(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        go(tmp_path / "run", Data(), steps=2 * corpus().plan.steps, evals={"dev": ragged_loss, "again": dev_loss})
    found = [name for line in caplog.messages for name in re.findall(r"^Compiling jit\((.*?)\)", line)]
    assert found.count("step") == 1, found
    assert found.count("forward") == 1, found  # both evaluations run one function
